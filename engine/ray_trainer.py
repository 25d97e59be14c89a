"""What runs on a node of a Ray cluster to train one adapter: files in as bytes, the adapter out.

The training is the same process as elsewhere (`TrainingProcess`), between temporary folders.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from selfstudy_engine.data.adapter_transfer import AdapterFiles, pack_adapter, unpack_adapter
from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.data.scratch import scratch_folder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import resolve_model
from selfstudy_engine.engine.launching import launch_here, launch_of
from selfstudy_engine.engine.ray_actor import use_all_cores
from selfstudy_engine.engine.training import TimeLimits, TrainingProcess

_SIGN_SECONDS = 1.0
"""Between two words to the driver."""
Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class TrainingOrder:
    """Everything that a training needs, wherever it runs."""

    config: RunConfig
    exemplars: bytes
    """JSONL."""
    rounds: "dict[int, ray.ObjectRef[Files]]"
    """The store's shards, by their names."""
    before_round: int | None
    previous: "list[ray.ObjectRef[AdapterFiles]]"
    """The adapter to continue from, if any."""
    previous_sha256: str
    name: str
    """Of the adapter's folder."""
    log: str
    """What messages call the log: the driver's copy outlives the node's."""
    limits: TimeLimits
    on_gpu: bool


@dataclass(frozen=True, slots=True)
class Sign:
    """The training lives."""

    step: int
    num_steps: int
    log: bytes
    """What was written since the last one."""


@dataclass(frozen=True, slots=True)
class Made:
    """It is done."""

    files: AdapterFiles
    sha256: str
    figures: dict[str, Any]
    """See the trainer's `train_adapter`."""


def train_on_node(order: TrainingOrder) -> Iterator[Sign | Made]:
    """Train an adapter on this node; yields signs of life, and at the end the adapter.

    Raises:
        TrainingError: the training failed or reached a limit.
        UsageError: the base model isn't on this node.
    """
    use_all_cores()
    steps = (0, 0)

    def on_step(step: int, num_steps: int) -> None:
        nonlocal steps
        steps = (step, num_steps)

    with scratch_folder() as folder:
        output, log = folder / "made" / order.name, folder / "train.log"
        arguments = {**_unpack(order, folder), "output": output}
        on_cpu = {"devices.server": "cpu", "devices.train": "cpu"}
        # Ray shows this task its GPU and no other.
        launch = launch_here() if order.on_gpu else launch_of(override(order.config, on_cpu))
        with TrainingProcess(arguments, log, order.limits, on_step, launch) as training:
            with log.open("rb") as written:
                while not training.has_ended(_SIGN_SECONDS):
                    yield Sign(*steps, written.read())
                yield Sign(*steps, written.read())
            try:
                figures = training.result()
            except TrainingError as error:
                error.args = (str(error).replace(str(log), order.log),)
                raise
        yield Made(pack_adapter(output), read_adapter(output).sha256, figures)


def _unpack(order: TrainingOrder, folder: Path) -> dict[str, object]:
    """Write what the training reads; returns its arguments."""
    arguments: dict[str, object] = {
        "config": folder / "run.toml",
        "model": resolve_model(order.config),
        "exemplars": folder / "exemplars.jsonl",
        "samples": folder / "samples",
        "before_round": order.before_round,
    }
    (folder / "run.toml").write_text(order.config.to_toml(), "utf-8")
    (folder / "exemplars.jsonl").write_bytes(order.exemplars)
    store = SampleStore(folder / "samples")
    for index, shards in order.rounds.items():
        place = store.round_folder(index)
        place.mkdir(parents=True)
        for name, content in ray.get(shards).items():
            (place / name).write_bytes(content)
    for files in order.previous:
        arguments["previous"] = folder / "previous"
        unpack_adapter(ray.get(files), folder / "previous", order.previous_sha256)
    return arguments
