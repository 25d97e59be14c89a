"""`loop --track`: rounds in TensorBoard's own files."""

import json
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from conftest import MakeConfig, loop
from fake_vllm import FakeVllm
from tensorboardX.proto.event_pb2 import Event

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.trackers import Trackers, figures_of


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return each curve's points: (round, value), from event files in TensorFlow's record form."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.*")):
        content = path.read_bytes()
        place = 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            start = place + 12  # length, and its checksum
            event = Event.FromString(content[start : start + length])
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
            place = start + length + 4
    return curves


def test_tensorboard_shows_every_round(
    small_config: MakeConfig, fake: FakeVllm, tmp_path: Path
) -> None:
    records, reporter = loop(small_config(track=["tensorboard"]), tmp_path, fake)
    assert reporter.phases[0] == "begin to track with tensorboard"
    folder = RunFolder(tmp_path / "test")
    curves = read(folder.path / "tracking" / "test")
    expected: list[tuple[int, Any]] = [
        (record.round, pytest.approx(record.test_mae.value)) for record in records
    ]
    assert curves["test/mae"] == expected
    asked = [record for record in records if record.acceptance is not None]
    expected = [(record.round, pytest.approx(record.acceptable)) for record in asked]
    assert curves["samples/acceptance"] == expected
    assert {path.name for path in tmp_path.iterdir()} == {"test"}, "nothing beside the run"
    options = [path.read_text() for path in folder.path.rglob("hparams.yml")]
    assert "generation.batch" in options[0]


def test_a_run_is_tracked_from_any_call_on(
    small_config: MakeConfig, copied: RunFolder, fake: FakeVllm
) -> None:
    config = small_config(track=["tensorboard"], rounds=3)
    loop(config, copied.path.parent, fake)
    [points] = [read(copied.path / "tracking" / "test")["test/mae"]]
    assert [step for step, _ in points] == [2, 3], "rounds that this call recorded"
    loop(config, copied.path.parent, fake)
    assert len(read(copied.path / "tracking" / "test")["test/mae"]) == 2, "nothing twice"


def test_figures_are_numbers_by_name(finished: RunFolder) -> None:
    first, *_, last = load_records(finished)
    first = replace(first, num_spare=1)
    figures = figures_of(first)
    assert figures["samples/acceptance"] == (first.num_accepted + 1) / first.num_completions
    lift = figures["samples/acceptance"] / figures["samples/chance"]
    assert figures["samples/lift"] == pytest.approx(lift)
    assert figures["samples/accepted"] == first.num_accepted
    assert figures["seconds/train"] == first.timing.train
    assert figures["test/bias"] == first.test_bias
    assert "test/bias" not in figures_of(replace(first, test_bias=None)), "of an earlier version"
    assert json.dumps(figures, allow_nan=False)
    assert "samples/acceptance" not in figures_of(last), "the last round asks for no samples"


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [("wandb", "WANDB_DIR", "{}"), ("mlflow", "MLFLOW_TRACKING_URI", "sqlite:///{}/mlflow.db")],
)
@pytest.mark.parametrize("users", [None, "elsewhere"])
def test_trackers_are_told_to_write_into_the_runs_folder(
    name: str, variable: str, value: str, users: str | None, copied: RunFolder, monkeypatch: Any
) -> None:
    """By their own variables, which stay a user's; their default is the working folder."""
    seen: dict[str, Any] = {}

    class Recorder:
        requires_logging_directory = False

        def __init__(self, run_name: str, **options: str) -> None:
            seen.update(options)

        def start(self) -> None:
            seen["variable"] = os.environ[variable]

        def store_init_configuration(self, options: dict[str, Any]) -> None:
            if seen.get("fails"):
                raise OSError("no network")

        def finish(self) -> None:
            seen["at the end"] = os.environ[variable]

    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [name])
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, name, Recorder)
    monkeypatch.delenv(variable, raising=False)
    if users:
        monkeypatch.setenv(variable, users)
    config = read_config(copied)
    with Trackers([name], copied, config):
        pass
    place = copied.path / "tracking"
    assert seen["variable"] == seen["at the end"] == (users or value.format(place))
    assert place.is_dir() == (users is None)
    seen["fails"] = True
    with pytest.raises(UsageError, match=f"{name} can't begin: no network"):
        Trackers([name], copied, config).__enter__()
    assert os.environ.get(variable) == users


def test_a_tracker_that_is_not_installed_is_named(finished: RunFolder, monkeypatch: Any) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with (
        pytest.raises(UsageError, match="tracker wandb isn't installed; pip install wandb"),
        Trackers(["wandb"], finished, None),  # type: ignore[arg-type]
    ):
        pass


def test_a_tracker_that_cant_begin_says_why(
    small_config: MakeConfig, copied: RunFolder, fake: FakeVllm
) -> None:
    (copied.path / "tracking").write_text("in the way")
    with pytest.raises(UsageError, match=r"tracker tensorboard can't begin: .*leave out --track"):
        loop(small_config(track=["tensorboard"], rounds=3), copied.path.parent, fake)
    assert not fake.generations, "before anything is asked"


def test_nothing_is_loaded_for_who_doesnt_track(finished: RunFolder, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)  # importing it would fail
    with Trackers([], finished, None) as trackers:  # type: ignore[arg-type]
        trackers.log(load_records(finished)[0])


def test_a_tracker_that_fails_in_the_middle_ends_no_run(
    small_config: MakeConfig,
    fake: FakeVllm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("the network is gone")

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.log", fail)
    records, _ = loop(small_config(track=["tensorboard"]), tmp_path, fake)
    assert len(records) > 1
    told = "tracker tensorboard failed, and is shown nothing more: the network is gone"
    assert [one.message for one in caplog.records if "tracker" in one.message] == [told]
