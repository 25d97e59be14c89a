"""Which version of the engine the nodes of a Ray cluster have.

What runs on a node is sent to it by name, and what it reads as this version's objects.
"""

from collections.abc import Iterable

from selfstudy_engine import __version__
from selfstudy_engine.data.errors import UsageError

_LOOK_SECONDS = 60
"""For all nodes at once; one that is slower is left to what needs it."""


def check_versions(nodes: Iterable[str]) -> None:
    """Refuse nodes that have another version of the engine than this machine, or none.

    Args:
        nodes: ids of those that may serve or train.

    Raises:
        UsageError: one has; all such are named.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look() -> tuple[str, str]:  # inside of a function: sent whole, not by its name
        import ray

        address = ray.util.get_node_ip_address()
        try:
            from selfstudy_engine import __version__
        except ImportError as error:
            return address, f"none ({error})"
        return address, __version__

    there = ray.remote(look)
    asked = [
        there.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote()
        for node in nodes
    ]
    others = []
    for answer in ray.wait(asked, num_returns=len(asked), timeout=_LOOK_SECONDS)[0]:
        try:
            address, version = ray.get(answer)
        except RayError:  # it is gone since
            continue
        if version != __version__:
            others.append(f"{version} on {address}")
    if others:
        raise UsageError(
            f"the nodes of a Ray cluster need selfstudy-engine {__version__}, as it is here; there "
            f"is {'; '.join(sorted(others))}; install the same on each"
        )
