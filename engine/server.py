"""One vLLM server in a child process: start it, wait until it is ready, stop it.

Its output goes to a log file; when it dies, the error carries the log's last lines.
"""

import logging
import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import orjson

from selfstudy_engine.data.adapters import Adapter, check_base
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.data.errors import (
    AdapterError,
    ServerDiedError,
    ServerError,
    UsageError,
    shown,
)
from selfstudy_engine.data.gpu_memory import local_folder
from selfstudy_engine.data.parent_death import end_with_parent
from selfstudy_engine.data.privacy import SERVER_KEY_VARIABLE
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.scratch import scratch_folder
from selfstudy_engine.engine.asgi import Origin
from selfstudy_engine.engine.chat import PASS_THROUGH, RUN_VARIABLE
from selfstudy_engine.engine.checks import SUPPORTED_VLLM
from selfstudy_engine.engine.endpoint import HOST, Endpoint
from selfstudy_engine.engine.process_groups import (
    GRACE_SECONDS,
    Reaper,
    group_exists,
)
from selfstudy_engine.engine.public_serving import PublicServing
from selfstudy_engine.engine.server_command import (
    allowed_rank,
    server_command,
    server_environment,
)
from selfstudy_engine.engine.server_failure import explain_end
from selfstudy_engine.engine.shared_memory import check_shared_memory
from selfstudy_engine.engine.vllm_plugin import installed_vllm

_HEALTH_SECONDS = 20
_CHAT = "selfstudy_engine.engine.chat.AskInTemplate"
logger = logging.getLogger(__name__)


def free_port(host: str = HOST) -> int:
    """Return a port of one of this machine's addresses that nobody listens on now."""
    with hold_port(host) as held:
        return int(held.getsockname()[1])


def hold_port(host: str) -> socket.socket:
    """Take a free port until the socket is closed: the system gives it to nobody else.

    A server that asks for it by its number, with SO_REUSEADDR as vLLM does, can listen there.
    """
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, 0))
    return held


def check_port(port: int, host: str = HOST) -> None:
    """Refuse a port that is taken, or an address that isn't this machine's.

    Raises:
        UsageError: somebody listens on it, or nobody can.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"port {port} on {host} can't be used ({error}); choose another with "
                "--port, or end what listens there"
            ) from error


def check_version(installed: str | None) -> None:
    """Refuse a version of vLLM that the traps of another would be fallen into.

    Raises:
        UsageError: it isn't supported, or there is none.
    """
    if installed is None or not SUPPORTED_VLLM.contains(installed):
        raise UsageError(
            f"vLLM {installed or 'is missing'}: its adapters, caches and routes are known for "
            f"{SUPPORTED_VLLM} only; run ./install.sh again, or see `selfstudy-engine doctor`"
        )


def check_servable(adapter: Adapter, config: RunConfig, model: str) -> None:
    """Refuse an adapter that a server of this configuration can't answer from.

    Raises:
        AdapterError: another base model, or a rank over the server's limit.
    """
    check_base(adapter, model)
    limit = allowed_rank(config.train.rank)
    if config.server.adapter_mode == "runtime" and adapter.rank > limit:
        raise AdapterError(
            f"adapter {adapter.folder} has rank {adapter.rank}, over the server's limit of "
            f"{limit}; raise it (serve: --max-lora-rank) or use --adapter-mode merged"
        )


class VllmServer:
    """A vLLM server of this process: `start` it, `wait_ready`, and `stop` it whatever happens."""

    def __init__(
        self,
        config: RunConfig,
        model: str,
        log: Path,
        *,
        host: str = HOST,
        port: int | None = None,
        api_key: str | None = None,
        chat_about: RunFolder | None = None,
        public: PublicServing | None = None,
    ) -> None:
        """Choose port and key; nothing is started yet.

        Args:
            config: model, server and device settings.
            model: folder or hub id of the base model.
            log: receives vLLM's output.
            host: this machine's address that it listens on: loopback, but for a node of a cluster.
            port: of that address (or where `public` says); None takes a free one.
            api_key: what every request must carry; None makes one up.
            chat_about: the run in whose template chat completions are asked; None leaves chats
                as they are.
            public: opens it to other machines; None keeps it to this one, and lets it swap.

        Raises:
            UsageError: this version of vLLM isn't supported, a device isn't there, or there is too
                little shared memory.
        """
        check_version(installed_vllm())
        check_shared_memory(placement_of(config))
        self.log = log
        self.public = public
        self._config = config
        self._model = model
        if port is None:
            # A server may start a training later, and listens half a minute after that.
            held = hold_port(host)
            weakref.finalize(self, held.close)
            port = held.getsockname()[1]
        key = api_key or secrets.token_urlsafe(24)
        url_host = f"[{host}]" if ":" in host else host
        self.endpoint = Endpoint(f"http://{url_host}:{port}", key, is_own=True)
        if public:
            scheme = "https" if public.certificate else "http"
            url = f"{scheme}://{public.url_host}:{port}"
            self.endpoint = Endpoint(url, key, public.certificate, is_own=True)
        self._command = server_command(config, model, port, public=public, host=host)
        self._environment = server_environment(config, model, self.endpoint.api_key, public)
        if chat_about:
            # The one named last sees a request first, and that must stay the guard.
            guard = self._command.index("--middleware")
            self._command[guard:guard] = ["--chat-template", PASS_THROUGH, "--middleware", _CHAT]
            self._environment[RUN_VARIABLE] = str(chat_about.path.resolve())
        self._scratch = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: Reaper | None = None

    @property
    def shares_training_gpu(self) -> bool:
        """See `Server`."""
        return placement_of(self._config).shared

    def publish(self, adapter: Adapter) -> str:
        """Return the adapter's folder as the server sees it: this machine's own."""
        return str(adapter.folder.resolve())

    def start(self) -> None:
        """Start the process; `wait_ready` says when it answers.

        Raises:
            UsageError: the model can't be had.
            OSError: no process can be started, or no log written.
        """
        local_folder(self._model)  # what is downloaded takes nothing of the time to get ready
        self.log.parent.mkdir(parents=True, exist_ok=True)
        folder = self._scratch.enter_context(scratch_folder())
        self._environment |= Origin.create(folder / "weights")
        with self.log.open("ab") as log:
            log.write(f"$ {shlex.join(self._command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is ours to handle; and one group to end
                preexec_fn=end_with_parent,  # noqa: PLW1509 - one system call, no locks
            )
        self._reaper = Reaper(self._process.pid)
        logger.info("vLLM server starting, process %d, log %s", self._process.pid, self.log)

    def wait_ready(self) -> float:
        """Wait until the server answers.

        Returns:
            Seconds that it took.

        Raises:
            ServerError: it died or isn't ready in time; with the log's last lines.
        """
        started = time.monotonic()
        limit = self._config.server.startup_timeout_seconds
        while time.monotonic() - started < limit:
            self.check_alive()
            if answers_health(self.endpoint):
                return time.monotonic() - started
            time.sleep(0.2)
        raise ServerError(
            f"the vLLM server isn't ready after {limit:g} s; raise server.startup_timeout_seconds, "
            f"or look into {self.log}:\n{self.last_lines()}"
        )

    @property
    def process_group(self) -> int:
        """The group that all processes of the server belong to."""
        if self._process is None:
            raise ServerError("the server wasn't started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def check_alive(self) -> None:
        """Raise ServerDiedError, with the log's last lines, if the process has ended."""
        if not self.alive:
            code = self._process.returncode if self._process else None
            raise ServerDiedError(
                f"the vLLM server ended with exit code {code}; the last lines of {self.log}:\n"
                f"{self.last_lines()}"
            )

    def check_healthy(self) -> None:
        """Raise ServerDiedError if the process has ended, or its engine has.

        The engine's end shows in /health, and ends the server moments later.
        """
        deadline = time.monotonic() + _HEALTH_SECONDS
        while time.monotonic() < deadline:
            self.check_alive()
            if answers_health(self.endpoint):
                return
            time.sleep(0.2)
        raise ServerDiedError(
            f"the vLLM server at {self.endpoint.url} has failed its health check for "
            f"{_HEALTH_SECONDS} s; the last lines of {self.log}:\n{self.last_lines()}"
        )

    def last_lines(self) -> str:
        """Return the end of the log, indented; see `explain_end`."""
        try:
            lines = self.log.read_text("utf-8", errors="replace").splitlines()
        except OSError:
            return "  (no log)"
        return explain_end(lines)

    def stop(self) -> None:
        """End the server and all its processes; returns when they are gone."""
        if self._process is None:
            return
        group = self._process.pid
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(group, number)
            deadline = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < deadline:
                self._process.poll()
                if not group_exists(group):
                    if self._reaper:
                        self._reaper.dismiss()
                    self._process = self._reaper = None
                    self._scratch.close()
                    return
                time.sleep(0.05)


def answers_health(endpoint: Endpoint) -> bool:
    """Tell whether a server of ours answers, and says that its engine lives."""
    with suppress(httpx.HTTPError):
        url = f"{endpoint.url}/health"
        answer = httpx.get(url, timeout=5, trust_env=False, verify=endpoint.verify)
        return answer.status_code == httpx.codes.OK
    return False


def served_model(endpoint: Endpoint) -> Mapping[str, Any]:
    """Return the base model's entry of /v1/models.

    Raises:
        ServerError: nobody answers, or it isn't vLLM.
        UsageError: the key is refused.
    """
    try:
        response = httpx.get(
            f"{endpoint.url}/v1/models",
            headers=endpoint.headers,
            timeout=30,
            trust_env=endpoint.may_use_proxy,
            verify=endpoint.verify,
        )
        response.raise_for_status()
        models = orjson.loads(response.content)["data"]
        return next(model for model in models if not model.get("parent") and str.strip(model["id"]))
    except (
        *(httpx.HTTPError, httpx.InvalidURL, ValueError),
        *(KeyError, TypeError, AttributeError, StopIteration),
    ) as error:
        answered = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
        if answered == httpx.codes.UNAUTHORIZED:
            raise UsageError(
                f"the server at {endpoint.url} refuses the key: set {SERVER_KEY_VARIABLE} to that "
                "with which it was started, or which `selfstudy-engine serve` printed"
            ) from error
        raise ServerError(
            f"no vLLM server answers at {endpoint.url} ({shown(error)}); start one with "
            "`selfstudy-engine serve`, or leave out --server (where it is the run's: give "
            "--replicas 1)"
        ) from error
