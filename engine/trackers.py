"""A run's rounds in, points in TensorBoard, W&B, MLflow or Trackio out, through accelerate.

What a tracker's package sends is its own affair: nothing is tracked but by name. One that fails in
the middle of a run, as by a network that is gone, is told and left out; the run goes on.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Self

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.config_keys import flatten
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.rounds import RoundRecord

_PLACES = {
    "mlflow": ("MLFLOW_TRACKING_URI", "sqlite:///{}/mlflow.db"),
    "wandb": ("WANDB_DIR", "{}"),
}
"""Variables by which some trackers are told where to write, else the working folder; and with what,
for a folder."""
logger = logging.getLogger(__name__)


class Trackers:
    """Use it as a context manager around the rounds.

    Args:
        names: of accelerate's trackers.
        folder: of the run; trackers that write files write into its folder "tracking".
        config: of the run, which trackers show beside its curves.

    Raises:
        UsageError: on entering: a tracker's package isn't installed, or it can't begin.
    """

    def __init__(self, names: Sequence[str], folder: RunFolder, config: RunConfig) -> None:
        self._names = names
        self._place = folder.path.resolve() / "tracking"
        self._config = config
        self._trackers: dict[str, Any] = {}
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        """Begin to track."""
        with ExitStack() as stack:
            for name in self._names:
                check_installed(name)
                if name in _PLACES:
                    self._set_place(*_PLACES[name], stack)
                self._trackers[name] = self._start(name)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Let the trackers write what they hold."""
        self._on_each(lambda tracker: tracker.finish())
        self._cleanup.close()

    def log(self, record: RoundRecord) -> None:
        """Add a round's figures, at its number."""
        self._on_each(lambda tracker: tracker.log(figures_of(record), step=record.round))

    def _on_each(self, work: Callable[[Any], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                work(tracker)
            except Exception as error:  # noqa: BLE001 - a package's; the run has the figures
                logger.warning("tracker %s failed, and is shown nothing more: %s", name, error)
                del self._trackers[name]

    def _set_place(self, variable: str, value: str, stack: ExitStack) -> None:
        """Have a tracker write into the run's folder, unless its user says where."""
        if variable not in os.environ:
            self._place.mkdir(exist_ok=True)
            os.environ[variable] = value.format(self._place)
            stack.callback(os.environ.pop, variable, None)

    def _start(self, name: str) -> Any:
        # Only for those who track: torch comes with it.
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=True)  # what trackers ask for the number of this process, without a GPU
        tracker_class: Any = LOGGER_TYPE_TO_CLASS[name]
        where = {}
        if tracker_class.requires_logging_directory or name == "mlflow":  # not the working folder
            where = {"logging_dir": str(self._place)}
        try:
            tracker = tracker_class(self._config.name, **where)
            tracker.start()
            tracker.store_init_configuration(_plain(self._config))
        except Exception as error:  # whatever the package raises: no login, no network, no folder
            raise UsageError(
                f"tracker {name} can't begin: {error}; leave out --track {name}"
            ) from error
        return tracker


def check_installed(tracker: str) -> None:
    """Look for a tracker's package.

    Raises:
        UsageError: it isn't there.
    """
    from accelerate.tracking import get_available_trackers

    if tracker not in {str(known) for known in get_available_trackers()}:
        raise UsageError(
            f"tracker {tracker} isn't installed; pip install {tracker}, or leave it out"
        )


def figures_of(record: RoundRecord) -> dict[str, float]:
    """Return a round's numbers by name; what wasn't measured is left out.

    Acceptance is what chance is held against, as in the report; lift is one over the other.
    """
    found: dict[str, float | None] = {
        "test/mae": record.test_mae.value,
        "test/mae_low": record.test_mae.low,
        "test/mae_high": record.test_mae.high,
        "test/rmse": record.test_rmse.value,
        "test/bias": record.test_bias,
        "test/r2": record.test_r2,
        "test/within_tolerance": record.test_within_tolerance,
        "test/answered": record.answered,
        "test/change_of_mae": record.test_change.value,
        "train/mae": record.train_mae,
        "train/loss": record.train_loss,
        "train/samples": record.num_trained_samples,
        "samples/acceptance": record.acceptable,
        "samples/chance": record.chance,
        "samples/lift": record.lift,
        "samples/accepted": record.num_accepted,
        "samples/distinct_molecules": record.num_distinct_accepted,
        "samples/false_claims": record.false_claims,
        "samples/distinct_4grams": record.distinct_4grams,
        "speed/completions_per_second": record.completions_per_second,
        "speed/output_tokens_per_second": record.output_tokens_per_second,
    }
    times = asdict(record.timing)
    parts = ("train", "swap", "evaluate", "generate", "wait")
    found |= {f"seconds/{part}": times[part] for part in parts}
    return {
        name: float(value)
        for name, value in found.items()
        if value is not None and math.isfinite(value)
    }


def _plain(config: RunConfig) -> dict[str, Any]:
    """Return a configuration as option -> number or text, which is what trackers take."""
    options = flatten(config.model_dump(mode="json", exclude_none=True))
    return {
        key: value if isinstance(value, int | float | str) else str(value)
        for key, value in options.items()
    }
