"""A real S3 server of this machine in a thread, which fails on command.

It is moto's, or stands before another one, whose host and port SELFSTUDY_TEST_S3 names.
"""

import http.client
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, Self

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Fault = Callable[[Application, dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def answer(status: str, body: bytes = b"") -> Fault:
    """Fail before anything is done: `answer("503 Slow Down")`."""

    def fail(app: Application, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(status, [("Content-Length", str(len(body)))])
        return [body]

    return fail


def hang_up(app: Application, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    """Break the connection before anything is done."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionError("on command")


def hang_up_after(
    app: Application, environ: dict[str, Any], start: Callable[..., Any]
) -> list[bytes]:
    """Do what is asked, and break the connection instead of saying so."""
    list(app(environ, lambda *args: None))
    return hang_up(app, environ, start)


def go_on(app: Application, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """No fault: lets the first requests pass."""
    return app(environ, start)


def kill(process: Callable[[], int], *, after: bool) -> Fault:
    """Kill a process before or after what it asks for is done."""

    def fault(app: Application, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        if after:
            list(app(environ, lambda *args: None))
        os.kill(process(), signal.SIGKILL)
        return hang_up(app, environ, start)

    return fault


def like_ceph(
    app: Application, environ: dict[str, Any], start: Callable[..., Any]
) -> Iterable[bytes]:
    """Know an ETag in If-Match without its quotes only, as radosgw 16.2 does."""
    etag = environ.get("HTTP_IF_MATCH", "*")
    if etag.startswith('"'):
        return answer("412 Precondition Failed")(app, environ, start)
    if etag != "*":
        environ["HTTP_IF_MATCH"] = f'"{etag}"'
    return app(environ, start)


def pass_on(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    """Have the server of SELFSTUDY_TEST_S3 answer what was asked, and signed, for this one."""
    other = http.client.HTTPConnection(os.environ["SELFSTUDY_TEST_S3"], timeout=60)
    method, length = environ["REQUEST_METHOD"], environ.get("CONTENT_LENGTH")
    other.putrequest(method, environ["RAW_URI"], skip_host=True, skip_accept_encoding=True)
    for name, value in environ.items():
        if name.startswith("HTTP_") and name not in {"HTTP_EXPECT", "HTTP_CONNECTION"}:
            other.putheader(name.removeprefix("HTTP_").replace("_", "-"), value)
    if environ.get("CONTENT_TYPE"):
        other.putheader("Content-Type", environ["CONTENT_TYPE"])
    if length:
        other.putheader("Content-Length", length)
    other.endheaders(environ["wsgi.input"].read(int(length)) if length else None)
    with other.getresponse() as response:
        content = response.read()
        own = {"transfer-encoding", "connection", "keep-alive", "content-length"}
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in own]
        size = response.getheader("Content-Length") or str(len(content))
        start(f"{response.status} {response.reason}", [*headers, ("Content-Length", size)])
    other.close()
    return [content]


class S3Server:
    """Use it as a context manager; `url` is its endpoint.

    `faults` holds what happens to the next requests of (method, part of a path).

    Args:
        certificate: file of it and of its key, for HTTPS.
    """

    def __init__(self, certificate: tuple[str, str] | None = None) -> None:
        self._app: Any = pass_on
        if "SELFSTUDY_TEST_S3" not in os.environ:
            self._app = DomainDispatcherApplication(create_backend_app)
        self.faults: list[tuple[str, str, Fault]] = []
        self.requests: list[tuple[str, str]] = []
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, ssl_context=certificate
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def begin(self) -> None:
        """Forget everything; the bucket is empty then."""
        self.faults.clear()
        keys = self.environment()
        s3 = boto3.resource(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )
        bucket = s3.create_bucket(Bucket=BUCKET)
        bucket.objects.delete()
        self.requests.clear()

    def fail(self, fault: Fault, method: str = "PUT", path: str = "", times: int = 1) -> None:
        """Let the next requests fail."""
        self.faults += [(method, path, fault)] * times

    def environment(self) -> dict[str, str]:
        """Return what a user of this server sets."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket",
            "AWS_REGION": "us-east-1",
        }

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.requests.append((method, path))
            fault = next((f for f in self.faults if f[0] == method and f[1] in path), None)
            if fault:
                self.faults.remove(fault)
        if fault:
            return fault[2](self._do, environ, start)
        return self._do(environ, start)

    def _do(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer; what writes goes in turn: moto looks at a condition first, and writes then."""
        in_turn = environ["REQUEST_METHOD"] == "PUT" and self._app is not pass_on
        with self._writing if in_turn else nullcontext():
            result: Iterable[bytes] = self._app(environ, start)
            return result
