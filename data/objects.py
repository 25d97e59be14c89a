"""Objects below one S3 address: each is written by one request, and seen whole or not at all.

Keys, region and endpoint come from AWS's usual environment variables. Knows nothing of runs.
"""

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfstudy_engine.data.errors import (
    ConflictError,
    RemoteError,
    RunFolderError,
    StoreError,
    UsageError,
    shown_text,
)
from selfstudy_engine.data.os_errors import explain
from selfstudy_engine.data.remote_address import RemoteAddress

if TYPE_CHECKING:
    from obstore import ObjectMeta

RETRY_SECONDS = 60.0
"""Longest time that a request is tried again, after failures of the server or the connection."""
_BROKEN_CONNECTIONS = 5
"""Times that a new object is tried when the connection breaks."""
_FIRST_PAUSE_SECONDS = 0.1
_CHUNK_BYTES = 8 << 20
_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) to keys that may "
    "list, read, write and delete there"
)
_CODE = re.compile(r"<Code>(\w+)</Code>\s*(?:<Message>([^<]*))?")
_UNREACHED = re.compile(
    r"(?s)(https?://[^/\s]+).*kind: Connect,"
    r'.*(?:(?:message|error): "([^"]+)"|InvalidCertificate\(\s*(\w+))'
)
"""Server, and why not: in obstore's "Debug source", the only place where it says so."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object that was read."""

    content: bytes
    etag: str
    modified: datetime
    """By the server's clock."""


class Objects:
    """The objects below an address.

    Args:
        address: where they lie.
        retry_seconds: see `RETRY_SECONDS`.

    Raises:
        UsageError: what speaks to S3 isn't installed, or the environment keeps it from speaking.
    """

    def __init__(self, address: RemoteAddress, retry_seconds: float = RETRY_SECONDS) -> None:
        try:
            from obstore.exceptions import BaseError
            from obstore.store import S3Store
        except ImportError as error:
            raise UsageError(
                f"{address} needs the package obstore: pip install 'selfstudy-engine[s3]'"
            ) from error
        self.address = address
        self._retry_seconds = retry_seconds
        self._quotes_etags = True
        """Whether conditions name an ETag as the server does; see `settle_conditions`."""
        named = {"endpoint": address.endpoint, "region": address.region}
        options: Any = {key: value for key, value in named.items() if value}
        options["client_options"] = {"allow_http": True, **_own_authorities()}
        try:
            self._store = S3Store(
                address.bucket,
                prefix=address.prefix or None,
                retry_config={
                    "max_retries": 1000,
                    "retry_timeout": timedelta(seconds=retry_seconds),
                    "backoff": {
                        "init_backoff": timedelta(seconds=_FIRST_PAUSE_SECONDS),
                        "max_backoff": timedelta(seconds=5),
                        "base": 2,
                    },
                },
                **options,
            )
        except (BaseError, ValueError) as error:
            raise UsageError(
                f"{address} can't be used with what AWS_CA_BUNDLE and the other AWS variables "
                f"say: {shown_text(_text_of(error))}"
            ) from error

    def url(self, key: str) -> str:
        """Return how messages name an object."""
        return f"{self.address}/{key}"

    def list(self) -> "list[ObjectMeta]":
        """Return path, size and ETag of all."""
        import obstore

        with self._explained("list", ""):
            return [meta for page in obstore.list(self._store) for meta in page]

    def find(self, key: str) -> Found | None:
        """Read an object, if there is one."""
        import obstore

        with self._explained("read", key), suppress(FileNotFoundError):
            result = obstore.get(self._store, key)
            meta = result.meta
            return Found(bytes(result.bytes()), meta["e_tag"] or "", meta["last_modified"])
        return None

    def read(self, key: str) -> bytes:
        """Read an object that is there.

        Raises:
            StoreError: it isn't.
        """
        found = self.find(key)
        if found is None:
            raise RemoteError(
                f"{self.url(key)} was listed, and is gone; run the same command again"
            )
        return found.content

    def download(self, key: str, path: Path) -> None:
        """Write an object's content to a file, in pieces."""
        import obstore

        with self._explained("read", key), path.open("wb") as file:
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=_CHUNK_BYTES):
                file.write(chunk)

    def replace(self, key: str, content: bytes | Path) -> None:
        """Write an object in the place of what was there; a path stands for its file's content."""
        import obstore

        with self._explained("write", key):
            obstore.put(self._store, key, content)

    def create(self, key: str, content: bytes, etag: str | None = None) -> str:
        """Write an object if what is there has an ETag still, or (None) if nothing is.

        Unlike `swap`, doing it again is as good as once.

        Returns:
            The new ETag.

        Raises:
            ConflictError: another content is there.
            StoreError: it can't be written.
        """
        from obstore.exceptions import GenericError

        last, number = time.monotonic() + self._retry_seconds, 0
        while True:
            number += 1
            try:
                return self.swap(key, content, etag)
            except ConflictError:
                found = self.find(key)  # maybe ours, and only the answer was lost
                if found and found.content == content:
                    return found.etag
                if (found.etag if found else None) != etag or number == _BROKEN_CONNECTIONS:
                    raise
                # An earlier try of ours is being written still (AWS: ConditionalRequestConflict).
                time.sleep(_FIRST_PAUSE_SECONDS * 2**number)
            except StoreError as error:
                # When the connection breaks, nobody knows if it was taken: obstore ends there.
                is_over = number == _BROKEN_CONNECTIONS or time.monotonic() > last
                if is_over or not isinstance(error.__cause__, GenericError):
                    raise
                time.sleep(_FIRST_PAUSE_SECONDS * 2**number)

    def swap(self, key: str, content: bytes, etag: str | None) -> str:
        """Write an object if what is there has an ETag still, or (None) if nothing is.

        Returns:
            The new ETag.

        Raises:
            ConflictError: something else is there.
            StoreError: it can't be written, or the answer was lost.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._explained("write", key):
            try:
                condition = etag if etag is None or self._quotes_etags else etag.strip('"')
                mode: Any = "create" if condition is None else {"e_tag": condition}
                return obstore.put(self._store, key, content, mode=mode)["e_tag"] or ""
            except (AlreadyExistsError, PreconditionError) as error:
                raise self.conflict(key) from error

    def settle_conditions(self) -> None:
        """Find out how the server wants conditions to be put, and that it keeps to them.

        Ceph refuses every ETag in quotes, in which HTTP has it and Ceph itself names it
        (docs/decisions.md, "A run in S3").

        Raises:
            RunFolderError: it doesn't: two loops could write into one run, or none.
            StoreError: S3 can't be used.
        """
        key = f"conditions-{uuid.uuid4().hex}"  # nobody else's

        def takes(content: bytes, etag: str | None) -> bool:
            with suppress(ConflictError):
                self.swap(key, content, etag)
            return self.read(key) == content  # also where an earlier try of ours was taken

        problem = ""
        etag = self.create(key, b"first")
        if not takes(b"second", etag):
            self._quotes_etags = False
            if not takes(b"second", etag):
                problem = "refuses If-Match with the ETag that it gave itself"
        for header, wrong in (("If-None-Match", None), ("If-Match", f'"{"0" * 32}"')):
            if takes(header.encode(), wrong):
                problem = f"ignores {header}"
        self.delete(key)
        if problem:
            raise RunFolderError(
                f"the server of {self.address} {problem}, so that it can't keep two loops out of "
                "one run; use one that knows conditional writes (AWS and Ceph do)"
            )

    def conflict(self, key: str) -> ConflictError:
        """Return the error that says whose content isn't what we knew."""
        return ConflictError(
            f"{self.url(key)} was written by somebody else meanwhile: another loop works "
            "on this run; end one of them, then run the same command again"
        )

    def move(self, key: str, other: str) -> None:
        """Give an object another name."""
        import obstore

        with self._explained("rename", key):
            obstore.rename(self._store, key, other)

    def delete(self, key: str) -> None:
        """Remove an object."""
        import obstore

        with self._explained("delete", key):
            obstore.delete(self._store, key)

    def now(self) -> datetime:
        """Return the server's time: two machines' clocks may differ."""
        key = "clock"
        self.replace(key, b"")
        found = self.find(key)
        self.delete(key)
        if found is None:  # another one asked for the time, too
            return self.now()
        return found.modified

    @contextmanager
    def _explained(self, doing: str, key: str) -> Iterator[None]:
        """Say what failed, where, why, and what helps."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as error:
            cause, remedy = self._explain(error)
            raise RemoteError(f"can't {doing} {self.url(key)}: {cause}; {remedy}") from error

    def _explain(self, error: Exception) -> tuple[str, str]:
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        text = _text_of(error)
        found = _CODE.search(text)
        cause = shown_text(": ".join(filter(None, found.groups())) if found else text)
        is_refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        code = found[1] if found else ""
        if is_refused or code in {"ExpiredToken", "InvalidToken"} or "169.254" in text:
            return cause, _KEYS
        if code == "NoSuchBucket":
            return cause, "make the bucket, or name another with --remote"
        unreached = _UNREACHED.search(str(error))
        if unreached and not code:
            server, why, certificate = unreached.groups()
            if certificate == "UnknownIssuer":
                return (
                    f"nobody here knows who issued the certificate of {server}",
                    "set AWS_CA_BUNDLE to a file with the certificate of its authority (PEM)",
                )
            cause = shown_text(f"no connection to {server}: {why or certificate}")
        return cause, (
            "see that the server answers (AWS_ENDPOINT_URL or endpoint_override names it, "
            "AWS_REGION its region), then run the same command again"
        )


def _text_of(error: Exception) -> str:
    return str(error).partition("Debug source")[0]


def _own_authorities() -> dict[str, Any]:
    """Return what has obstore trust an institute's own certificates, too.

    Raises:
        UsageError: AWS_CA_BUNDLE names no file.
    """
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if not bundle:
        return {}
    try:
        return {"root_certificate": Path(bundle).read_bytes()}
    except OSError as error:
        raise UsageError(f"AWS_CA_BUNDLE: {explain(error)}") from error
