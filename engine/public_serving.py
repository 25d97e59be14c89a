"""What `serve --public` opens, as arguments and environment of vLLM's server.

There is no development mode and no loading of adapters at runtime: one adapter, if any, comes in
through vLLM's own --lora-modules when the server starts, and `public_guard` stands before it all.
"""

from dataclasses import dataclass
from pathlib import Path

import orjson

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.engine import public_guard

MIN_KEY_LENGTH = 20
"""Characters of a key that somebody chose; one that is made up has 32."""


@dataclass(frozen=True, slots=True)
class PublicServing:
    """How a server is open to other machines."""

    host: str
    """Address that it listens on; 0.0.0.0 is all of IPv4's."""
    requests_per_minute: int
    """Of one client's address."""
    max_body_bytes: int
    """Of one request."""
    base_name: str
    """What others know the base model by."""
    adapter: Adapter | None = None
    """What answers; None is the base model."""
    certificate: Path | None = None
    """PEM file, the server's certificate first; None serves plain HTTP."""
    private_key: Path | None = None
    """PEM file."""

    @property
    def model_name(self) -> str:
        """The one name that may be asked for."""
        return runtime_name(self.adapter) if self.adapter else self.base_name

    @property
    def url_host(self) -> str:
        """Where this machine reaches it."""
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{address}]" if ":" in address else address

    @property
    def arguments(self) -> list[str]:
        """Arguments for vLLM."""
        # Otherwise it would be known by its folder, if it has one.
        found = ["--served-model-name", self.base_name]
        if self.certificate and self.private_key:
            found += ["--ssl-certfile", str(self.certificate)]
            found += ["--ssl-keyfile", str(self.private_key)]
        if self.adapter:
            module = {
                "name": runtime_name(self.adapter),
                "path": str(self.adapter.folder.resolve()),
            }
            found += ["--lora-modules", orjson.dumps(module).decode()]
        return found

    @property
    def environment(self) -> dict[str, str]:
        """What `public_guard` reads."""
        return {
            public_guard.MODEL_VARIABLE: self.model_name,
            public_guard.RATE_VARIABLE: str(self.requests_per_minute),
            public_guard.BODY_VARIABLE: str(self.max_body_bytes),
        }


def runtime_name(adapter: Adapter) -> str:
    """Return the name under which vLLM's LoRA path serves an adapter.

    The hash makes it new for new bytes: the prefix cache goes by name and path.
    """
    return f"{adapter.name}-{adapter.sha256[:12]}"


def check_key(key: str) -> None:
    """Refuse a key that could be guessed; an empty one is made up later.

    Raises:
        UsageError: it is too short.
    """
    if key and len(key) < MIN_KEY_LENGTH:
        raise UsageError(
            f"the key has {len(key)} characters, of {MIN_KEY_LENGTH} at least; make one with "
            "`openssl rand -hex 16`, or leave SELFSTUDY_SERVER_KEY out to have one made up"
        )
