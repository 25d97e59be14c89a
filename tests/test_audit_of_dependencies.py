"""`make audit` with the real pip-audit, which asks an index in a thread here."""

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "requirements" / "audit.py"
_spec = importlib.util.spec_from_file_location("audit_of_dependencies", SCRIPT)
assert _spec
assert _spec.loader
audit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(audit)
HASH = f"--hash=sha256:{'0' * 64}"


class Index(ThreadingHTTPServer):
    """Knows vulnerabilities as OSV tells them: name -> ids."""

    known: dict[str, list[str]]
    known_versions: dict[str, str]
    """The one version that is meant, where it isn't any."""
    asked: list[tuple[str, str]]
    status = 200


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = query["package"]["name"]
        self.server.asked.append((name, query["version"]))
        affected = self.server.known_versions.get(name, query["version"]) == query["version"]
        ids = self.server.known.get(name, []) if affected else []
        vulns = [{"id": one, "summary": "Bad.", "affected": [], "aliases": []} for one in ids]
        body = json.dumps({"vulns": vulns} if vulns else {}).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def index() -> Iterator[Index]:
    with Index(("127.0.0.1", 0), _Handler) as server:
        server.known, server.known_versions = {"jinja2": ["PYSEC-2021-66"]}, {}
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def service(index: Index) -> list[str]:
    url = f"http://127.0.0.1:{index.server_port}/{id(index)}"
    return ["--vulnerability-service", "osv", "--osv-url", url]


def lock(folder: Path, *pins: str) -> Path:
    path = folder / "some.lock"
    path.write_text("".join(f"{pin} {HASH}\n" for pin in pins))
    return path


def test_a_known_vulnerability_fails_unless_it_is_explained(index: Index, tmp_path: Path) -> None:
    index.known["click"] = ["PYSEC-1", "PYSEC-2"]
    pinned = lock(tmp_path, "click==8.2.0", "jinja2==3.1.6", 'nowhere==1; sys_platform == "no"')
    index.known_versions["jinja2"] = "2.11.2"
    found = audit.audit([pinned], "torch==2.13.0", service(index))
    assert {one["name"] for one in found} == {"click", "jinja2", "torch"}
    assert ("torch", "2.13.0") in index.asked
    lines, failed = audit.judge(found, {"PYSEC-1": "unused here"})
    assert failed
    assert lines[:2] == [
        "click 8.2.0: PYSEC-1 (known: unused here)",
        "click 8.2.0: PYSEC-2, fixed by no version yet: Bad.",
    ]
    explained = {"PYSEC-1": "unused here", "PYSEC-2": "that too"}
    lines, failed = audit.judge(found, explained)
    assert not failed
    assert lines[-1] == "3 packages asked about, 0 unknown to the index"
    lines, failed = audit.judge(found, dict.fromkeys(["PYSEC-1", "PYSEC-2", "PYSEC-3"], "why"))
    assert failed
    assert "PYSEC-3 in vulnerabilities.toml isn't found any more: remove it" in lines


def test_an_index_that_knows_nothing_isnt_believed(index: Index, tmp_path: Path) -> None:
    index.known = {}
    with pytest.raises(audit.NotAskedError, match=r"knows nothing of jinja2==2\.11\.2"):
        audit.audit([lock(tmp_path, "click==8.2.0")], "torch==2.13.0", service(index))
    assert {name for name, _ in index.asked} == {"jinja2", "torch"}, "nobody else was asked about"


def test_an_index_that_fails_isnt_believed(index: Index, tmp_path: Path) -> None:
    index.status = 503
    with pytest.raises(audit.NotAskedError):
        audit.audit([lock(tmp_path, "click==8.2.0")], "torch==2.13.0", service(index))


def test_no_index_is_said_and_no_failure() -> None:
    command = [sys.executable, str(SCRIPT), "-s", "osv", "--osv-url", "http://127.0.0.1:1/none"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no index can be asked here, nothing was audited" in result.stdout


@pytest.mark.parametrize(
    "path", sorted((ROOT / "requirements").glob("*.lock")), ids=lambda path: path.name
)
def test_each_lock_can_be_read_and_has_hashes(path: Path) -> None:
    """By pip-audit itself; without `--dry-run` it would ask about each package."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--dry-run"]
    result = subprocess.run([*command, "-r", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_torch_is_asked_about_by_the_version_that_is_installed() -> None:
    """Its build for CPUs has a local version, which no index tells of: 2.13.0+cpu is 2.13.0."""
    assert audit.torch_of(ROOT / "pyproject.toml").startswith("torch==2.")
