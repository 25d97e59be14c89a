"""`serve --public`: what vLLM is started with, and what is refused before it is."""

import os
import re
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from click.testing import CliRunner
from conftest import MakeAdapter
from test_server_process import after, config

from selfstudy_engine.cli.main import cli
from selfstudy_engine.cli.public import open_to_others
from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.errors import SwapError, UsageError
from selfstudy_engine.data.hardware import device
from selfstudy_engine.engine import public_guard
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.guard import KEY_VARIABLE
from selfstudy_engine.engine.public_serving import PublicServing, check_key, runtime_name
from selfstudy_engine.engine.server import (
    VllmServer,
    check_port,
    free_port,
)
from selfstudy_engine.engine.server_command import server_command, server_environment
from selfstudy_engine.engine.swap import FixedSwapper

KEY = "a-random-key-of-thirty-characters"
OPTIONS = {"host": "0.0.0.0", "requests_per_minute": 300, "max_body_bytes": 1_000_000}


def opened(adapter: Adapter | None, **more: Any) -> tuple[PublicServing, list[str], dict[str, str]]:
    """Return how a server is opened, its command line and its environment."""
    public, opened_config = open_to_others(OPTIONS | more, config(), "owner/tiny", adapter)
    command = server_command(opened_config, "owner/tiny", 8000, public)
    return public, command, server_environment(opened_config, "owner/tiny", KEY, public)


def test_a_public_server_has_no_admin_routes(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        monkeypatch.setenv(name, "1")
    for adapter in (None, make_adapter("round-0001")):
        _, command, environment = opened(adapter)
        assert "VLLM_SERVER_DEV_MODE" not in environment
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment
        assert "--worker-extension-cls" not in command or after(
            command, "--worker-extension-cls"
        ).endswith("LoraWorker"), "nothing that merges"
        assert after(command, "--host") == "0.0.0.0"
        assert after(command, "--api-server-count") == "1"
        assert command[2] == "vllm.entrypoints.openai.api_server"
        assert KEY not in command
        assert environment[KEY_VARIABLE] == KEY


def test_its_guard_meets_requests_first_also_before_chats(
    make_adapter: MakeAdapter, finished: Any, tmp_path: Path
) -> None:
    """vLLM adds middlewares in their order, and the last one added is the outermost."""
    adapter = make_adapter("round-0001")
    public, opened_config = open_to_others(OPTIONS, config(), "owner/tiny", adapter)
    server = VllmServer(
        opened_config, "owner/tiny", tmp_path / "log", chat_about=finished, public=public
    )
    flags = [i for i, word in enumerate(server._command) if word == "--middleware"]
    names = [server._command[index + 1].rpartition(".")[2] for index in flags]
    assert names == ["AskInTemplate", "PublicGuard"]


def test_one_adapter_comes_in_at_the_start(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter("round-0001")
    public, command, environment = opened(adapter)
    module = orjson.loads(after(command, "--lora-modules"))
    assert module == {"name": runtime_name(adapter), "path": str(adapter.folder)}
    assert after(command, "--max-lora-rank") == "8"
    assert environment[public_guard.MODEL_VARIABLE] == public.model_name == runtime_name(adapter)
    assert environment[public_guard.RATE_VARIABLE] == "300"
    assert environment[public_guard.BODY_VARIABLE] == "1000000"


def test_the_base_model_is_known_by_its_name_alone(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """A folder of this machine is nobody's business."""
    for adapter in (None, make_adapter("round-0001")):
        public, opened_config = open_to_others(OPTIONS, config(), str(tmp_path), adapter)
        command = server_command(opened_config, str(tmp_path), 8000, public)
        assert after(command, "--served-model-name") == tmp_path.name
        assert ("--enable-lora" in command) == (adapter is not None)
        assert (public.model_name == tmp_path.name) == (adapter is None)


@pytest.mark.skipif(device() != "cpu", reason="a GPU takes vLLM's own products anyway")
def test_vllms_own_products_are_refused_on_a_cpu(make_adapter: MakeAdapter) -> None:
    slow = config(server__fast_lora=False)
    with pytest.raises(UsageError, match="--no-fast-lora: a client could end the server"):
        open_to_others(OPTIONS, slow, "owner/tiny", make_adapter("round-0001"))
    open_to_others(OPTIONS, slow, "owner/tiny", None)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "[2001:db8::1]"),
    ],
)
def test_this_machine_reaches_it_where_it_listens(host: str, shown: str) -> None:
    assert PublicServing(host, 30, 1000, "tiny").url_host == shown


def test_it_serves_what_it_was_started_with_and_nothing_else(make_adapter: MakeAdapter) -> None:
    import asyncio

    first, second = make_adapter("round-0001"), make_adapter("round-0002", -1.5)
    public, _, _ = opened(first)
    served = asyncio.run(FixedSwapper(public).swap(first))
    assert (served.model, served.adapter_sha256) == (runtime_name(first), first.sha256)
    for other in (second, None):
        with pytest.raises(SwapError, match="from what it was started with alone"):
            asyncio.run(FixedSwapper(public).swap(other))


@pytest.mark.parametrize("key", ["", "k" * 20, "k" * 64])
def test_a_long_key_is_taken_and_an_empty_one_made_up(key: str) -> None:
    check_key(key)


def refuse(*arguments: object, key: str = KEY) -> str:
    words = ["serve", *map(str, arguments)]
    result = CliRunner().invoke(cli, words, env={"SELFSTUDY_SERVER_KEY": key})
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host: only with --public"),
        (["--requests-per-minute", "60", "--max-body-bytes", "20000"], "only with --public"),
        (["--public", "--host", "example.org"], "'example.org' is no IP address"),
        (["--public", "--requests-per-minute", "1"], "requests-per-minute"),
        (["--public", "--ssl-certfile", __file__], "go together"),
        (["--public", "--", "--host", "0.0.0.0"], "--host: not passed on to vLLM"),
        (["--public", "--host", "192.0.2.1"], "on 192.0.2.1 can't be used"),
    ],
)
def test_a_wrong_call_is_refused(arguments: list[str], message: str) -> None:
    assert message in refuse("--port", free_port(), *arguments)


def test_a_key_that_can_be_guessed_is_refused_for_others_alone() -> None:
    said = refuse("--public", key="hunter2-secret")
    assert "the key has 14 characters, of 20 at least" in said
    assert "hunter2" not in said


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no certificate"):
        opened(None, ssl_certfile=Path(__file__), ssl_keyfile=tmp_path)


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


def make_certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a.test"]
    command += ["-days", "2", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_this_machine_trusts_the_servers_own_certificate_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").mkdir()
    certificate, key = make_certificate(tmp_path / "mine")
    other, _ = make_certificate(tmp_path / "other")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Healthy) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"https://127.0.0.1:{server.server_port}"
        verify = Endpoint(url, KEY, certificate).verify
        assert httpx.get(url, verify=verify, trust_env=False).status_code == 200
        for wrong in (Endpoint(url, KEY, other).verify, Endpoint(url, KEY).verify):
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                httpx.get(url, verify=wrong, trust_env=False)
        server.shutdown()


def test_the_images_health_check_asks_either_way_and_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = (Path(__file__).parent.parent / "Dockerfile").read_text("utf-8")
    [check] = re.findall(r"^HEALTHCHECK .*\\\n    CMD (.*)$", image, re.MULTILINE)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def passes(port: int) -> bool:
        command = orjson.loads(check.replace(":8000", f":{port}"))
        return not subprocess.run(command, check=False, capture_output=True).returncode

    assert not passes(free_port())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate(tmp_path))
    for is_https in (False, True):
        with ThreadingHTTPServer(("127.0.0.1", 0), _Healthy) as server:
            if is_https:
                server.socket = context.wrap_socket(server.socket, server_side=True)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            assert passes(server.server_port)
            server.shutdown()


def test_the_arguments_for_https_are_vllms(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    _, command, _ = opened(None, ssl_certfile=certificate, ssl_keyfile=key)
    assert after(command, "--ssl-certfile") == str(certificate)
    assert after(command, "--ssl-keyfile") == str(key)


def test_an_address_of_another_machine_cant_be_listened_on() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.1 can't be used"):
        check_port(free_port(), "192.0.2.1")
    check_port(free_port(), "0.0.0.0")


def test_help_names_the_limits() -> None:
    command = [sys.executable, "-m", "selfstudy_engine.cli", "serve", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    text = " ".join(shown.stdout.split())
    for part in ("[default: 0.0.0.0]", "[default: 300", "[default: 1000000", "--public"):
        assert part in text
