"""Nothing but loopback is contacted, and no key shows: a whole loop where each packet is seen."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MakeConfig
from quarantine import ADDRESS, Quarantined, describe, require_quarantine, run_quarantined
from secret_loop import SERVER_KEY, TEACHER_KEY

from selfstudy_engine.data.privacy import TELEMETRY_OFF, child_environment
from selfstudy_engine.engine.launching import training_environment
from selfstudy_engine.engine.server_command import server_environment

TESTS = Path(__file__).parent
STARTERS = {
    *(f"subprocess.{name}" for name in ("Popen", "run", "call", "check_call", "check_output")),
    *(f"asyncio.create_subprocess_{name}" for name in ("exec", "shell")),
}


def unguarded() -> dict[str, str]:
    """Return our environment without what keeps libraries quiet, or sends them round by a proxy."""
    offline = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", *TELEMETRY_OFF}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in offline and not name.lower().endswith("_proxy")
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secret")


@pytest.fixture(scope="module")
def ran(folder: Path, small_config: MakeConfig) -> Quarantined:
    """A loop of one round in quarantine, with a teacher, a report and verbose logs."""
    require_quarantine()
    teacher = {"teacher__model": "a-teacher", "teacher__num_exemplars": 4}
    config = small_config(rounds=1, report="end", property__tolerance=100.0, **teacher)
    (folder / "loop.toml").write_text(config.to_toml(), "utf-8")
    environment = unguarded() | {"PYTHONPATH": str(TESTS)}
    command = [sys.executable, str(TESTS / "secret_loop.py"), str(folder)]
    result = run_quarantined(command, folder, environment)
    assert result.returncode == 0, result.output
    assert (folder / "runs" / "test" / "report.html").exists()
    return result


def test_a_loop_contacts_nothing_but_loopback(ran: Quarantined) -> None:
    assert ran.packets == []
    assert ran.num_sent == 0


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.7', 9))", "203.0.113.7:9"),
        ("socket.create_connection(('203.0.113.7', 443), timeout=0.2)", "TCP 203.0.113.7:443"),
        ("socket.getaddrinfo('telemetry.example', 443)", "UDP 192.0.2.53:53"),
    ],
    ids=["datagram", "connection", "name"],
)
def test_the_quarantine_would_notice(tmp_path: Path, statement: str, expected: str) -> None:
    require_quarantine()
    code = f"import socket\ntry: {statement}\nexcept OSError: pass"
    result = run_quarantined([sys.executable, "-c", code], tmp_path, os.environ)
    assert result.num_sent > 0
    assert any(packet.endswith(expected) for packet in result.packets), result.packets


def test_what_listens_on_loopback_is_closed_to_the_hosts_other_address(tmp_path: Path) -> None:
    """And the quarantine itself doesn't count what stays on the machine."""
    require_quarantine()
    code = f"""
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
    socket.create_connection(("127.0.0.1", port)).close()
    try:
        socket.create_connection(({ADDRESS!r}, port))
    except ConnectionRefusedError:
        print("refused")
"""
    result = run_quarantined([sys.executable, "-c", code], tmp_path, os.environ)
    assert (result.output, result.num_sent) == ("refused\n", 0)


def test_packets_are_described() -> None:
    header = bytes([0x45, *[0] * 8, 6, *[0] * 2, 192, 0, 2, 1, 203, 0, 113, 7])
    assert describe(header + (50000).to_bytes(2) + (443).to_bytes(2)) == "TCP 203.0.113.7:443"
    assert describe(bytes([0x60, *[0] * 40])).startswith("no IPv4 packet")


@pytest.mark.parametrize("secret", [SERVER_KEY, TEACHER_KEY], ids=["server", "teacher"])
def test_no_key_is_written_or_printed(ran: Quarantined, folder: Path, secret: str) -> None:
    assert "127.1" in (folder / "runs" / "test" / "run.toml").read_text("utf-8"), "it was asked"
    assert secret not in ran.output
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"run.toml", "run.json", "report.html", "answers.jsonl"} <= {path.name for path in files}
    assert any(path.suffix == ".parquet" for path in files)
    assert any(path.suffix == ".log" and path.parent.name == "logs" for path in files)
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


def test_no_key_shows_in_a_process_list(ran: Quarantined, folder: Path) -> None:
    del ran
    seen = json.loads((folder / "seen.json").read_bytes())
    assert any("selfstudy_engine.train" in line for line in seen.values()), "it looked"
    assert "leak" not in seen


@pytest.mark.parametrize("kind", ["server", "training", "any"])
def test_a_child_gets_no_key_of_others_and_sends_no_telemetry(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("SELFSTUDY_SERVER_KEY", SERVER_KEY)
    monkeypatch.setenv("OPENAI_API_KEY", TEACHER_KEY)
    monkeypatch.setenv("HF_TOKEN", "for-models-of-the-hub")
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")
    environment = {
        "server": lambda: server_environment(small_config(), "owner/tiny", "another-key"),
        "training": lambda: training_environment(None),
        "any": child_environment,
    }[kind]()
    assert not {SERVER_KEY, TEACHER_KEY} & set(environment.values())
    assert environment["HF_TOKEN"] == "for-models-of-the-hub"
    assert {name: environment[name] for name in TELEMETRY_OFF} == TELEMETRY_OFF


def test_whatever_starts_a_process_says_what_it_gets() -> None:
    """Left out, `env` is all that we have."""
    found, silent = 0, []
    for package in ("cli", "data", "engine", "train"):
        for path in (TESTS.parent / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in STARTERS:
                    found += 1
                    given = {one.arg: ast.unparse(one.value) for one in node.keywords}
                    if given.get("env", "None") in {"None", "os.environ"}:
                        silent.append(f"{path}:{node.lineno}")
                elif isinstance(node, ast.ImportFrom | ast.Import):
                    # These have no `env`, or would hide the names above.
                    names = {getattr(node, "module", None), *(one.name for one in node.names)}
                    hidden = isinstance(node, ast.ImportFrom) and node.module == "subprocess"
                    assert not hidden, f"{path}:{node.lineno}"
                    assert names.isdisjoint({"multiprocessing", "ProcessPoolExecutor"}), path
    assert found > 10
    assert silent == []


@pytest.mark.vllm
def test_libraries_understand_that_telemetry_is_off() -> None:
    """The variables' names are theirs; a new version may know others."""
    pytest.importorskip("vllm")
    code = """
import importlib
from huggingface_hub import constants
from vllm.usage import usage_lib
from selfstudy_engine.data.privacy import turn_telemetry_off
def told():
    usage_lib._USAGE_STATS_ENABLED = None
    importlib.reload(constants)
    return constants.HF_HUB_DISABLE_TELEMETRY, usage_lib.is_usage_stats_enabled()
before = told()
turn_telemetry_off()
print(before, told())
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, env=unguarded(), capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "(False, True) (True, False)"
