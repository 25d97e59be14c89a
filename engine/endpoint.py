"""Where a server listens, and what it takes to speak to it."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from selfstudy_engine.data.errors import UsageError

HOST = "127.0.0.1"
"""Where our servers listen, unless it is on another machine that they run."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens, and what it takes to speak to it."""

    url: str
    """Without a path: http://127.0.0.1:8000."""
    api_key: str = field(repr=False)
    """Empty where the server takes none."""
    certificate: Path | None = None
    """What an own server shows over HTTPS; None trusts who the system trusts."""
    is_own: bool = False
    """Whether we started it."""

    @property
    def headers(self) -> dict[str, str]:
        """What each request must carry."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """How HTTPS is checked; plain HTTP needs no certificates loaded, 65 ms for each client."""
        if self.certificate:
            return trust_only(self.certificate)
        return self.url.startswith("https:")

    @property
    def may_use_proxy(self) -> bool:
        """Whether a proxy that the environment names may be asked: never about a server of ours."""
        return not self.is_own and urlsplit(self.url).hostname not in (HOST, "localhost", "::1")


def trust_only(certificate: Path) -> ssl.SSLContext:
    """Return how to connect to a server of ours that shows this certificate, under any name.

    Raises:
        UsageError: the file holds none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # itself, not who signed it
    try:
        context.load_verify_locations(certificate)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{certificate} holds no certificate ({error}); give a PEM file with --ssl-certfile"
        ) from error
    return context
