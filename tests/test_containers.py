"""Compose file and Kubernetes manifests: their commands exist; they fit image and server."""

import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.privacy import SERVER_KEY_VARIABLE
from selfstudy_engine.engine.endpoint import HOST

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE, COMPOSE_GPU = (
    yaml.safe_load((DEPLOY / name).read_text("utf-8"))["services"]
    for name in ("compose.yaml", "compose.gpu.yaml")
)
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
RESOURCES = [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text("utf-8"))]
PODS = {
    one["metadata"]["name"]: one["spec"]["template"]["spec"]
    for one in RESOURCES
    if one["kind"] == "Job"
}
SIDE_BY_SIDE = PODS["selfstudy-loop-beside-server"]
IMAGE = (ROOT / "Dockerfile").read_text("utf-8")
VOLUMES = set(re.findall(r'"([^"]+)"', re.findall(r"^VOLUME (.*)$", IMAGE, re.MULTILINE)[0]))


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a pod's containers by name, sidecars too."""
    return {one["name"]: one for one in [*pod.get("initContainers", []), *pod["containers"]]}


COMMANDS = [
    *(
        one["command"]
        for services in (COMPOSE, COMPOSE_GPU)
        for one in services.values()
        if "command" in one
    ),
    *(one["args"] for pod in PODS.values() for one in containers(pod).values()),
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_each_command_exists_with_these_options(words: list[str]) -> None:
    command = cli.get_command(click.Context(cli), words[0])
    assert command
    command.make_context(words[0], words[1:])


def test_a_loop_asks_the_server_beside_it() -> None:
    for words in COMMANDS:
        servers = [word.removeprefix("--server=") for word in words if "http" in word]
        assert all(url == f"http://{HOST}:8000" for url in servers)
    assert COMPOSE["loop"]["network_mode"] == "service:server"
    assert set(containers(SIDE_BY_SIDE)) == {"server", "loop"}


def test_a_server_leaves_what_training_beside_it_needs() -> None:
    tokens = [
        words[words.index("--tokens-per-step") + 1]
        for words in (one["command"] for one in COMPOSE_GPU.values())
    ]
    assert len(set(tokens)) == 1


def test_nobody_else_reaches_a_server() -> None:
    for one in [*COMPOSE.values(), *COMPOSE_GPU.values()]:
        assert not {"ports", "expose", "networks"} & set(one)
    assert {one["kind"] for one in RESOURCES} == {"Job", "PersistentVolumeClaim"}, "no Service"
    for pod in PODS.values():
        assert not pod.get("hostNetwork")
        assert all("ports" not in one for one in containers(pod).values())


def test_both_sides_get_the_key_and_no_file_holds_it() -> None:
    assert COMPOSE["server"]["env_file"] == COMPOSE["loop"]["env_file"] == "server.env"
    assert "/deploy/server.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
    for one in containers(SIDE_BY_SIDE).values():
        [variable] = one["env"]
        assert variable["name"] == SERVER_KEY_VARIABLE
        assert set(variable["valueFrom"]) == {"secretKeyRef"}


def test_runs_and_caches_lie_where_the_image_has_them() -> None:
    shared = [one["volumes"] for one in COMPOSE.values()]
    assert {path.partition(":")[2] for path in shared[0]} == VOLUMES
    assert shared[0] == shared[1], "the server reads adapters where the loop writes them"
    claims = {one["metadata"]["name"] for one in RESOURCES if one["kind"] != "Job"}
    for pod in PODS.values():
        assert {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"][:2]} == claims
        for one in containers(pod).values():
            assert {mount["mountPath"] for mount in one["volumeMounts"]} == {*VOLUMES, "/dev/shm"}


def test_whatever_has_a_server_gets_shared_memory() -> None:
    """Pods have theirs mounted, see above; a container has too little of its own."""
    pages = IMAGE + (ROOT / "docs" / "how-to" / "containers.md").read_text("utf-8")
    shown = re.findall(r"docker run(?:.*\\\n)*.*", pages)
    assert len(shown) == 4
    assert all("--shm-size" in command for command in shown)
    assert "shm_size" in COMPOSE["server"]


def test_nothing_runs_as_root() -> None:
    user = int(re.findall(r"^USER (\d+)$", IMAGE, re.MULTILINE)[0])
    for pod in PODS.values():
        context = pod["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] == context["fsGroup"] == user
        for one in containers(pod).values():
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert one["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_wrong_call_is_not_tried_again() -> None:
    for one in RESOURCES:
        if one["kind"] == "Job":
            first = one["spec"]["podFailurePolicy"]["rules"][0]
            assert first["action"] == "FailJob"
            assert first["onExitCodes"]["values"] == [2]
            names = [c["name"] for c in one["spec"]["template"]["spec"]["containers"]]
            assert names == [first["onExitCodes"]["containerName"]]


def test_a_pods_probe_asks_its_server_and_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    _, option, code = containers(SIDE_BY_SIDE)["server"]["startupProbe"]["exec"]["command"]
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)

    def passes(port: int) -> bool:
        command = [sys.executable, option, code.replace(":8000", f":{port}")]
        return not subprocess.run(command, check=False, capture_output=True).returncode

    with ThreadingHTTPServer((HOST, 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        assert not passes(server.server_port), "no such page"
        (tmp_path / "health").touch()
        assert passes(server.server_port)
        server.shutdown()
