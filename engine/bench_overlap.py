"""How much of its time a server sits idle in a loop with --overlap.

The loop, the store and the server are the real ones; only the training is played: it takes less
time than generating and publishes the same adapter under a new name.
"""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfstudy_engine.data.adapters import (
    MANIFEST,
    Adapter,
    manifest_probes,
    publish_adapter,
)
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.engine.bench_idle import IdleWatch
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.launching import Launch
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.rounds import RoundRecord
from selfstudy_engine.engine.training import OnStep, TimeLimits, Training

_TRAINING_SECONDS = 3.0
_LOOK_SECONDS = 0.1


def measure_overlap(
    connection: Connection,
    adapter: Adapter,
    config: RunConfig,
    *,
    num_rounds: int,
    batch: int,
    scratch: Path,
) -> dict[str, Any]:
    """Run a loop with --overlap on a running server.

    Args:
        connection: of a server that is swapped by merging.
        adapter: what every round's "training" publishes.
        config: of a loop on the same model.
        num_rounds: rounds of the loop.
        batch: completions per round, about.
        scratch: folder for the run.

    Returns:
        idle_share (of the time from the first to the last request: nothing ran in the server),
        missed_share (of the looks at it: no answer came), seconds (that time), num_rounds,
        training_seconds (of each played training).
    """
    per_molecule = config.generation.samples_per_molecule
    batch = max(1, batch // per_molecule) * per_molecule
    config = override(
        config,
        {
            "name": "overlap",
            "overlap": True,
            "report": "off",  # its baselines take both cores for minutes
            "rounds": num_rounds,
            "generation.batch": batch,
            "table.test_size": max(2, batch // 8),
            "train_evaluation_size": 0,
            "server.adapter_mode": "merged",
            "server.url": [connection.endpoint.url],
        },
    )

    @contextmanager
    def play_training(
        arguments: dict[str, object],
        log: Path,
        limits: TimeLimits,
        on_step: OnStep,
        launch: Launch,
    ) -> Iterator[Training]:
        del log, limits, on_step, launch
        training = _PlayedTraining(adapter, Path(str(arguments["output"])))
        training.start()
        yield training
        training.join()

    with IdleWatch(connection.endpoint, _LOOK_SECONDS) as watch:
        run_loop(
            config, scratch, _Silent(), connection.endpoint.api_key, start_training=play_training
        )
    return {
        "idle_share": watch.idle_share,
        "missed_share": watch.missed_share,
        "seconds": watch.seconds,
        "num_rounds": num_rounds,
        "training_seconds": _TRAINING_SECONDS,
    }


class _PlayedTraining(threading.Thread):
    def __init__(self, adapter: Adapter, output: Path) -> None:
        super().__init__(daemon=True)
        self._adapter = adapter
        self._output = output

    def run(self) -> None:
        time.sleep(_TRAINING_SECONDS)
        adapter = self._adapter
        manifest = {
            "name": self._output.name,
            "base_model": adapter.base_model,
            "base_fingerprint": adapter.base_fingerprint,
            "canary": manifest_probes(adapter.canary),
            "training": adapter.training,
        }
        with publish_adapter(self._output, manifest) as folder:
            for path in adapter.folder.iterdir():
                if path.name != MANIFEST:
                    shutil.copy(path, folder)

    def has_ended(self, within_seconds: float) -> bool:
        self.join(within_seconds)
        return not self.is_alive()

    def result(self) -> dict[str, Any]:
        self.join()
        return self._adapter.training


class _Silent:
    def phase(self, name: str, total: int | None = None) -> None:
        """Nothing is shown."""

    def advance(self, done: int, detail: str = "") -> None:
        """Nothing is shown."""

    def finish_round(self, record: RoundRecord) -> None:
        """Nothing is shown."""
