"""Where a run's servers run and its adapters are trained: this machine, or a cluster's nodes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.devices import replica_configs
from selfstudy_engine.engine.replica import Server
from selfstudy_engine.engine.server import VllmServer
from selfstudy_engine.engine.training import StartTraining, TrainingProcess


@dataclass(frozen=True, slots=True)
class Places:
    """Servers that aren't started yet, and how a training is."""

    config: RunConfig
    """What the servers are asked and adapters are swapped with."""
    servers: Sequence[Server]
    """Empty where config.server.url names running ones."""
    start_training: StartTraining


@contextmanager
def open_places(
    config: RunConfig,
    model: str,
    log: Path,
    *,
    api_key: str | None = None,
    trains: bool = False,
    start_training: StartTraining = TrainingProcess,
) -> Iterator[Places]:
    """Reserve what a run computes with, until the block ends.

    Args:
        config: of the run.
        model: folder or hub id of the base model.
        log: receives what the server writes; several have a number in the name.
        api_key: what requests must carry; None makes one up for each server.
        trains: whether adapters are trained, too.
        start_training: how, on this machine.

    Raises:
        UsageError: this machine or the cluster hasn't the places.
    """
    num = config.server.replicas
    logs = [log.with_stem(f"{log.stem}-{i}") for i in range(num)] if num > 1 else [log]
    if config.server.url:
        yield Places(config, [], start_training)
    elif config.server.ray == "off":
        servers = [
            VllmServer(each, model, path, api_key=api_key)
            for each, path in zip(replica_configs(config), logs, strict=True)
        ]
        yield Places(config, servers, start_training)
    else:
        from selfstudy_engine.engine.ray_cluster import RayCluster

        with RayCluster(config, trains=trains) as cluster:  # says so if Ray isn't installed
            from selfstudy_engine.engine.ray_server import RayServer
            from selfstudy_engine.engine.ray_training import RayTraining

            placed = [
                RayServer(cluster, index, path, api_key=api_key) for index, path in enumerate(logs)
            ]
            # Of this machine's GPUs, which may be fewer than a server's, none is asked for.
            asking = override(cluster.config, {"devices.server": "cpu"})
            yield Places(asking, placed, partial(RayTraining, cluster))
