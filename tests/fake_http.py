"""An HTTP server in a thread: takes down what it is asked, and answers, or fails on command.

It knows no route; `fake_vllm` does.
"""

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

_HANG_SECONDS = 60
Body = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request that the fake got."""

    path: str
    params: dict[str, str]
    """Of the query; and "engine", if a header says which of several is to answer."""
    body: Body

    @property
    def kind(self) -> str:
        """The path, or which part of the canary it is."""
        if "prompt_logprobs" in self.body:
            return "score"
        return "next" if "logprobs" in self.body else self.path


@dataclass
class Failure:
    """What happens instead of the right answer, so many times."""

    path: str
    times: int
    status: int | None = None
    text: str | None = None
    content_type: str = "application/json"
    hang: bool = False
    trickle: float | None = None
    """Seconds between two bytes of the answer."""
    cut: bool = False
    """Close the connection in the middle of the body."""
    refuse: bool = False
    """Close it without a byte."""
    edit: Callable[[Body], Body] | None = None
    """Change the right answer."""
    matching: Callable[[Body], bool] = lambda body: True


class ServerInThread:
    """An HTTP server of this process; use it as a context manager.

    Args:
        handler: answers each request; finds this object as `server.fake`.
        host, port: where it listens; port 0 is a free one.
    """

    def __init__(
        self, handler: type[BaseHTTPRequestHandler], host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._closing = threading.Event()
        self._http = _Server((host, port), handler)
        self._http.fake = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Without a path."""
        return "http://{}:{}".format(*self._http.server_address)

    def hang(self) -> None:
        """Answer nothing until the server closes."""
        self._closing.wait(_HANG_SECONDS)


class FakeServer(ServerInThread, ABC):
    """The server; use it as a context manager.

    Attributes:
        requests: everything asked, in order.
        api_key: what requests for /v1 must carry; empty: nothing.
    """

    def __init__(self, api_key: str, host: str, port: int) -> None:
        super().__init__(_Handler, host, port)
        self.api_key = api_key
        self.requests: list[Request] = []
        self._failures: list[Failure] = []
        self._taking = threading.Lock()

    @property
    def paths(self) -> list[str]:
        """The paths asked for, in order."""
        return [request.path for request in self.requests]

    @property
    def headers(self) -> dict[str, str]:
        """What each answer carries, too."""
        return {}

    def fail_next(self, path: str, *, times: int = 1, **how: Any) -> None:
        """Fail the next requests for a path; see `Failure`."""
        self._failures.append(Failure(path, times, **how))

    def take_failure(self, path: str, body: Body) -> Failure | None:
        """Return the failure that this request meets, if any."""
        with self._taking:
            for failure in self._failures:
                if failure.path == path and failure.times > 0 and failure.matching(body):
                    failure.times -= 1
                    return failure
        return None

    @abstractmethod
    def answer(self, path: str, params: dict[str, str], body: Body) -> tuple[int, Body | str]:
        """Return status and content of the right answer."""


class _Server(ThreadingHTTPServer):
    fake: Any
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the fake's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:
        """The requests are recorded, not printed."""

    def _handle(self) -> None:
        fake: FakeServer = self.server.fake
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.loads(content) if content and content != b"null" else {}
        params = dict(parse_qsl(parts.query))
        if engine := self.headers.get("x-data-parallel-rank"):
            params["engine"] = engine
        fake.requests.append(Request(parts.path, params, body))
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        if fake.api_key and parts.path.startswith("/v1/") and key != fake.api_key:
            self._send(401, {"error": "Unauthorized"})
            return
        failure = fake.take_failure(parts.path, body)
        if failure is None:
            self._send(*fake.answer(parts.path, params, body))
        elif failure.hang:
            fake.hang()
            self.close_connection = True
        elif failure.refuse:
            self.close_connection = True
        elif failure.status or failure.text is not None:
            message = failure.text or json.dumps({"error": {"message": "failed on command"}})
            self._send(failure.status or 200, message, failure.content_type)
        else:
            status, answer = fake.answer(parts.path, params, body)
            if failure.edit and isinstance(answer, dict):
                answer = failure.edit(answer)
            self._send(status, answer, cut=failure.cut, trickle=failure.trickle)

    def _send(
        self,
        status: int,
        content: Body | str,
        content_type: str = "application/json",
        cut: bool = False,
        trickle: float | None = None,
    ) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(data)))
        fake = self.server.fake
        for name, value in fake.headers.items():
            self.send_header(name, value)
        # The client waits that long before the next try, not up to 8 s.
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        if trickle is not None:
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(trickle)
            return
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut
