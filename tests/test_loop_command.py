"""The command `loop` as a process: killed, stopped, failing, and what it shows."""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import MakeConfig
from fake_vllm import FakeVllm
from stored_samples import content_of, stored
from waiting import wait_for

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore

BATCH = 8
"""Of small_config."""


class Command:
    """`selfstudy-engine loop` as its own process."""

    def __init__(self, folder: RunFolder, config: RunConfig, fake: FakeVllm) -> None:
        path = folder.path.parent.parent / "loop.toml"
        path.write_text(config.to_toml(), "utf-8")
        code = "from selfstudy_engine.cli.main import cli; cli()"
        self._command = [sys.executable, "-c", code, "loop", "--config", str(path)]
        self._command += ["--runs", str(folder.path.parent), "--server", fake.url]
        self._environment = os.environ | {"SELFSTUDY_SERVER_KEY": fake.api_key}

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self) -> tuple[int, str, str]:
        with self.start() as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err


def stop_while_generating(
    folder: RunFolder, fake: FakeVllm, config: RunConfig, number: signal.Signals
) -> tuple[int, str, str]:
    """Send a signal when some samples of round 1 are on the disk and others aren't."""
    shards = SampleStore(folder.samples).round_folder(1)
    fake.fail_next(
        "/v1/completions", hang=True, times=2, matching=lambda body: _is_last(folder, fake, body)
    )
    with Command(folder, config, fake).start() as process:
        wait_for(lambda: any(shards.glob("*.parquet")) or process.poll() is not None)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def _is_last(folder: RunFolder, fake: FakeVllm, body: dict[str, Any]) -> bool:
    """All questions of round 1 after the first two."""
    asked = [request for request in fake.generations if request.body.get("n") == 2]
    return body.get("n") == 2 and len(asked) > 2


def test_a_killed_loop_continues_without_loss_or_double(
    before_generating: RunFolder, finished: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    config = small_config()
    code, _, _ = stop_while_generating(before_generating, fake, config, signal.SIGKILL)
    assert code == -signal.SIGKILL
    kept = content_of(before_generating)
    assert BATCH < len(kept) < 2 * BATCH
    num_before = len(fake.generations)
    code, out, err = Command(before_generating, config, fake).run()
    assert (code, err) == (0, ""), out
    assert content_of(before_generating) == content_of(finished)
    assert kept.items() <= content_of(before_generating).items()
    asked = [r for r in fake.generations[num_before:] if r.body["n"] == 2]
    assert len(asked) == (2 * BATCH - len(kept)) / 2  # nothing is asked again that is stored


def test_a_terminated_loop_keeps_what_it_has(
    before_generating: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    code, _, err = stop_while_generating(before_generating, fake, small_config(), signal.SIGTERM)
    assert code == 130
    assert err == "Stopped; what was finished is kept.\n"
    assert len(stored(before_generating)) > BATCH


def test_the_command_ends_with_1_and_one_message_when_the_server_fails(
    before_generating: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    fake.latency_seconds = 0.1
    fake.fail_next(
        "/v1/completions",
        times=100,
        status=400,
        matching=lambda body: _is_last(before_generating, fake, body),
    )
    code, _, err = Command(before_generating, small_config(), fake).run()
    assert code == 1
    [line] = err.splitlines()
    assert line.startswith(f"Error: the server at {fake.url}")
    assert "failed on command" in line
    assert len(stored(before_generating)) >= BATCH + 2  # answers before the first failure


def test_the_runs_name_is_enough_to_go_on(
    before_generating: RunFolder,
    finished: RunFolder,
    fake: FakeVllm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `small_config` says, tolerance and all, is in the run's folder."""
    monkeypatch.setenv("SELFSTUDY_SERVER_KEY", fake.api_key)
    runs = before_generating.path.parent
    arguments = ["loop", "--run", "test", "--runs", str(runs), "--server", fake.url]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert f"Continues {before_generating.path}; what decides its results" in result.output
    assert content_of(before_generating) == content_of(finished)
    assert "A higher --rounds goes on with this run" in result.output


def test_the_command_shows_all_rounds(
    copied: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    code, out, err = Command(copied, small_config(), fake).run()
    assert (code, err) == (0, "")
    assert "Run test: melting point" in out
    assert str(copied.path) in out
