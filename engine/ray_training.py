"""Train an adapter somewhere in a Ray cluster; see `training.StartTraining`.

What the training reads goes through Ray's object store and the adapter comes back through it: the
run folder stays where the driver is, and no file system is shared.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, cast

import ray
from ray.exceptions import RayError, RayTaskError

from selfstudy_engine.data.adapter_transfer import unpack_adapter
from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.ray_cluster import RayCluster, describe_nodes
from selfstudy_engine.engine.ray_session import reason_of
from selfstudy_engine.engine.ray_trainer import Made, Sign, TrainingOrder, train_on_node
from selfstudy_engine.engine.training import OnStep, TimeLimits

_MAX_LOST = 3
"""Times that a training begins anew because its node is gone."""
_LOOK_SECONDS = 0.5
logger = logging.getLogger(__name__)


class RayTraining:
    """One adapter's training on a node; use it as a context manager.

    Args:
        cluster: where.
        arguments: see `TrainingProcess`; all but `model` are paths on this machine.
        log: see `TrainingProcess`; what the node's training writes is added here.
        limits: see `TrainingProcess`; a node that is silent for `stall`, too, is given up.
        on_step: see `OnStep`.
        launch: how this machine would train, which it doesn't.
    """

    def __init__(
        self,
        cluster: RayCluster,
        arguments: Mapping[str, object],
        log: Path,
        limits: TimeLimits,
        on_step: OnStep,
        *launch: object,
    ) -> None:
        self._cluster = cluster
        self._arguments = arguments
        self._log = log
        self._limits = limits
        self._on_step = on_step
        self._figures: dict[str, Any] = {}
        self._failure: Exception | None = None
        self._ended = threading.Event()
        self._follower = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        """Start the training."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._follower.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End the training, if it still runs."""
        self._ended.set()
        self._follower.join()

    def has_ended(self, within_seconds: float) -> bool:
        """See `Training`."""
        self._follower.join(within_seconds)
        return not self._follower.is_alive()

    def result(self) -> dict[str, Any]:
        """See `TrainingProcess`.

        Raises:
            TrainingError: it failed, ran out of time, or lost its node too often.
        """
        self._follower.join()
        if self._failure:
            raise self._failure
        return self._figures

    def _follow(self) -> None:
        try:
            order = self._order()
            for number in range(_MAX_LOST + 1):
                try:
                    self._figures = self._train(order)
                    return
                except RayTaskError:
                    raise
                except RayError as error:
                    if number == _MAX_LOST:
                        raise
                    logger.warning(
                        "a training is lost with its node (%s); training again, %d of %d times",
                        *(reason_of(error), number + 1, _MAX_LOST),
                    )
        except RayTaskError as error:
            self._failure = cast(Exception, error.cause)
        except RayError as error:
            self._failure = TrainingError(
                f"a training was lost with its node {_MAX_LOST + 1} times ({reason_of(error)}); "
                "run the same command again once the cluster is well"
            )
        except Exception as error:  # noqa: BLE001 - `result` raises it
            self._failure = error

    def _train(self, order: TrainingOrder) -> dict[str, Any]:
        options = self._cluster.training_options() | {"max_retries": 0}
        stream = ray.remote(train_on_node).options(**options).remote(order)
        try:
            for word in self._words(stream):
                if isinstance(word, Made):
                    unpack_adapter(word.files, self._output, word.sha256)
                    return word.figures
                with self._log.open("ab") as log:
                    log.write(word.log)
                if word.step:
                    self._on_step(word.step, word.num_steps)
        finally:
            # Without force the node could tidy up, but Ray 2.60 may end this process over it:
            # "Tried to complete task that was not pending".
            ray.cancel(stream, force=True)
        return {}  # nobody waits for them: the training was ended

    def _words(self, stream: Any) -> Iterator[Sign | Made]:
        """Yield what the node says, until it is done or we are."""
        silent = 0.0
        while not self._ended.is_set():
            ready, _ = ray.wait([stream], timeout=_LOOK_SECONDS)
            if ready:
                silent = 0.0
                try:
                    yield ray.get(next(stream))
                except StopIteration:
                    return
                continue
            silent += _LOOK_SECONDS
            if silent >= self._limits.stall:
                raise TrainingError(
                    f"no node has said a word of training for {self._limits.stall:g} s, or none "
                    f"is free for it; the cluster has {describe_nodes()}; run the same command "
                    "again, or raise train.stall_seconds"
                )

    @property
    def _output(self) -> Path:
        return Path(str(self._arguments["output"]))

    def _order(self) -> TrainingOrder:
        """Put all that the training reads into Ray's object store."""
        arguments, config = self._arguments, self._cluster.config
        store = SampleStore(Path(str(arguments["samples"])))
        before = cast(int, arguments["before_round"])
        previous = arguments.get("previous")
        adapter = read_adapter(Path(str(previous))) if previous else None
        return TrainingOrder(
            config=config,
            exemplars=Path(str(arguments["exemplars"])).read_bytes(),
            rounds=self._cluster.send_rounds(store, before),
            before_round=before,
            previous=[self._cluster.send(adapter)] if adapter else [],
            previous_sha256=adapter.sha256 if adapter else "",
            name=self._output.name,
            log=str(self._log),
            limits=self._limits,
            on_gpu="GPU" in self._cluster.training_needs,
        )
