"""This process's connection to a Ray cluster: one that runs, or one of its own on this machine.

Ray says in many ways that it can't connect; here each is one error that names the address.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selfstudy_engine.data.errors import UsageError, shown_text
from selfstudy_engine.data.privacy import SECRETS, turn_telemetry_off

_CONNECT_SECONDS = 10
_QUIET: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
logger = logging.getLogger(__name__)


@contextmanager
def ray_session(address: str) -> Iterator[None]:
    """Connect to a Ray cluster, and leave it again.

    Args:
        address: HOST:PORT of the cluster's head; "auto" is the cluster that this machine belongs
            to, or a new one on this machine alone.

    Raises:
        UsageError: Ray isn't installed, or nothing of it answers there.
    """
    found = find_ray(address)
    import ray

    if ray.is_initialized():
        yield
        return
    with _handlers_kept():
        try:
            ray.init(found, **_QUIET)
        except ConnectionError as error:
            if found != "auto":
                raise _cant_connect(found, error) from error
            logger.warning("no Ray cluster runs here: starting one on this machine alone")
            with _secrets_hidden():
                ray.init("local", include_dashboard=False, **_QUIET)
        except (RuntimeError, ValueError) as error:
            raise _cant_connect(found, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def find_ray(address: str) -> str:
    """Return where a cluster is to be reached, or "auto", after what can be seen at once.

    Raises:
        UsageError: Ray isn't installed, or nothing listens there.
    """
    turn_telemetry_off()
    found = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if found != "auto":
        _check_reachable(found)
        # Ray, which reads it as it is imported, would try something that isn't Ray for 11 minutes.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--ray needs Ray, which isn't installed: pip install 'selfstudy-engine[ray]'"
        ) from error
    return found


def reason_of(error: Exception) -> str:
    """Return the first line of what Ray says: stack traces and advice about Ray follow it."""
    return shown_text(str(error).strip().partition("\n")[0])


def _check_reachable(address: str) -> None:
    """Ask before Ray does, which tries for a minute and may end the process."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _cant_connect(address, error) from error


def _cant_connect(address: str, error: Exception) -> UsageError:
    return UsageError(
        f"can't connect to a Ray cluster at {address} ({shown_text(str(error))}); give --ray the "
        "HOST:PORT that `ray start --head` printed, and have this machine join it with `ray start "
        f"--address={address}`, or use --ray auto"
    )


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keep what this process does at SIGTERM, which Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _secrets_hidden() -> Iterator[None]:
    """Keep our keys out of the environment of what is started."""
    hidden = {name: os.environ.pop(name) for name in SECRETS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
