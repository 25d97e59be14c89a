"""One vLLM server on some node of a Ray cluster, seen from the driver; see `replica.Server`.

Each start is a new actor in the server's bundle, which Ray moves to another node if its own is
gone.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.errors import SelfStudyError, ServerDiedError, ServerError
from selfstudy_engine.data.os_errors import explain
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.process_groups import GRACE_SECONDS
from selfstudy_engine.engine.ray_actor import ServerActor
from selfstudy_engine.engine.ray_cluster import RayCluster, describe_nodes
from selfstudy_engine.engine.ray_session import reason_of
from selfstudy_engine.engine.server import answers_health

_ANSWER_SECONDS = 60
"""For an actor to answer: more than its longest look at its server's health."""
_LOOK_SECONDS = 0.5
_MAX_PLACES = 3
"""Nodes that a start may lose: Ray places on a node, too, that it doesn't know is gone."""


class _LostError(ServerDiedError):
    """Not vLLM has died, but its node, or the actor."""


class RayServer:
    """Use it as `VllmServer`.

    Args:
        cluster: that has a place for it.
        index: of its bundle.
        log: receives what the server writes, when the driver looks.
        api_key: what every request must carry; None has the node make one up.
    """

    public = None
    shares_training_gpu = False

    def __init__(
        self, cluster: RayCluster, index: int, log: Path, *, api_key: str | None = None
    ) -> None:
        self.endpoint = Endpoint("", "")
        self._cluster = cluster
        self._name = f"server {index} of the Ray cluster"
        self._index = index
        self._log = log
        self._api_key = api_key
        self._actor: Any = None
        self._started: ray.ObjectRef[Endpoint] | None = None

    def start(self) -> None:
        """Have Ray place the server's actor, and that start vLLM; `wait_ready` says when."""
        self.stop()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        options = self._cluster.server_options(self._index)
        self._actor = ray.remote(ServerActor).options(**options).remote()
        self._started = self._actor.start.remote(self._cluster.config, self._api_key)

    def wait_ready(self) -> float:
        """Wait until the server answers this machine.

        Returns:
            Seconds that it took.

        Raises:
            ServerError: no node has room for it, it died or isn't ready in time.
            UsageError: its node hasn't the model, or can't serve it.
        """
        started = time.monotonic()
        limit = self._cluster.config.server.startup_timeout_seconds
        for number in range(1, _MAX_PLACES + 1):
            actor, answer = self._actor, self._started
            try:
                self._wait_for_answer(actor, answer, started + limit)
                break
            except _LostError:
                if number == _MAX_PLACES or self._actor is not actor:
                    raise  # somebody else stopped it, or started it anew
                self.start()
        return time.monotonic() - started

    def _wait_for_answer(self, actor: Any, answer: Any, deadline: float) -> None:
        limit = self._cluster.config.server.startup_timeout_seconds
        if answer is None:
            raise ServerDiedError(f"{self._name} wasn't started")
        try:
            self.endpoint = self._ask(answer, max(deadline - time.monotonic(), 0))
        except GetTimeoutError as error:
            raise ServerError(
                f"{self._name} got no place within {limit:g} s; the cluster has "
                f"{describe_nodes()}; have another machine join it"
            ) from error
        while time.monotonic() < deadline:
            self._call(actor, "check_alive")
            self._take_log(actor)
            if answers_health(self.endpoint):
                return
            time.sleep(_LOOK_SECONDS)
        raise ServerError(
            f"{self._name} isn't ready at {self.endpoint.url} after {limit:g} s; raise "
            "server.startup_timeout_seconds, open its node's ports to this machine, or look into "
            f"{self._log}:\n{self._call(actor, 'last_lines')}"
        )

    def check_alive(self) -> None:
        """See `Server`; a node that is gone is replaced by `wait_ready`."""
        if self._started is None or not ray.wait([self._started], timeout=0)[0]:
            return  # it has no place yet
        with suppress(_LostError):
            self._ask(self._started, 0)
            self._call(self._actor, "check_alive")

    def check_healthy(self) -> None:
        """Raise ServerDiedError if the server or its node has ended."""
        self._call(self._actor, "check_healthy")

    def publish(self, adapter: Adapter) -> str:
        """Send an adapter to the server's node.

        Returns:
            Its folder there, where it was verified.

        Raises:
            ServerDiedError: the node is gone.
            AdapterError: what came wasn't what was sent.
        """
        files = [self._cluster.send(adapter)]
        folder: str = self._call(self._actor, "take_adapter", adapter.name, adapter.sha256, files)
        return folder

    def stop(self) -> None:
        """End the server; returns when it is gone, or its node is."""
        # Taken away first: a thread that still waits for it finds another in its place, or none.
        actor, self._actor, answer, self._started = self._actor, None, self._started, None
        if actor is None:
            return
        if ray.wait([answer], timeout=0)[0]:  # else it has no place yet, and no server
            with suppress(SelfStudyError, RayError, OSError):  # also of a log that can't be written
                self._take_log(actor)
            with suppress(SelfStudyError, RayError):
                self._ask(actor.stop.remote(), 3 * GRACE_SECONDS)
        ray.kill(actor)

    def _take_log(self, actor: Any) -> None:
        with self._log.open("ab") as log:
            log.write(self._call(actor, "new_log"))

    def _call(self, actor: Any, method: str, *arguments: object) -> Any:
        """Call a method of an actor.

        Raises:
            ServerDiedError: it doesn't answer any more, or there is none.
        """
        if actor is None:
            raise ServerDiedError(f"{self._name} wasn't started")
        try:
            return self._ask(getattr(actor, method).remote(*arguments), _ANSWER_SECONDS)
        except GetTimeoutError as error:
            raise _LostError(
                f"{self._name} at {self.endpoint.url}: its node hasn't answered for "
                f"{_ANSWER_SECONDS} s"
            ) from error

    def _ask(self, answer: Any, seconds: float) -> Any:
        """Wait for an answer; what went wrong on the node is raised here as it was there."""
        try:
            return ray.get(answer, timeout=seconds)
        except GetTimeoutError:
            raise
        except RayTaskError as error:
            if isinstance(error.cause, SelfStudyError):
                raise error.cause from None
            if isinstance(error.cause, OSError):  # of that node: the others may be well
                raise ServerError(f"{self._name}: {explain(error.cause)}") from error
            raise
        except RayError as error:
            raise _LostError(
                f"{self._name} at {self.endpoint.url or 'no address'}: its process or its node is "
                f"gone ({reason_of(error)})"
            ) from error
