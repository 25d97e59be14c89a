"""Which way of asking gives the most accepted samples per second: exemplars shown, and n."""

from typing import Any

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.task import Task
from selfstudy_engine.engine.bench_contenders import ServerContender
from selfstudy_engine.engine.bench_workloads import make_workloads, measure
from selfstudy_engine.engine.connection import Connection

_SHOWN = (0, 3)
_SAMPLES_PER_MOLECULE = (1, 2, 4, 8)


def measure_yield(
    connection: Connection, adapter: Adapter, config: RunConfig, task: Task, num_completions: int
) -> dict[str, Any]:
    """Sample with and without exemplars in the prompt, and with several n.

    Args:
        connection: of a server that is swapped by merging.
        adapter: what answers; a later round's may want other settings.
        config: of a loop.
        task: molecules and exemplars.
        num_completions: for each setting, about the same molecules.

    Returns:
        settings: for each, num_exemplars, n, acceptance, num_accepted_distinct,
        accepted_distinct_per_second; best: the one with the most.
    """
    connection.swap_to(adapter)
    settings = []
    for num_exemplars in _SHOWN:
        for n in _SAMPLES_PER_MOLECULE:
            asked_for = override(
                config,
                {
                    "generation.prompt_exemplars": num_exemplars,
                    "generation.samples_per_molecule": n,
                    "generation.batch": n,
                },
            )
            [_, workload, _] = make_workloads(
                asked_for, task, num_prompts=1, num_real=num_completions, max_tokens=1, num_long=1
            )
            contender = ServerContender("yield", "", connection, lambda: None)
            contender.prepare()  # else the same prompts would be cached
            found = measure(workload, contender.run(workload), config)
            settings.append(
                {
                    "num_exemplars": num_exemplars,
                    "n": n,
                    "num_completions": found.num_completions,
                    "num_accepted_distinct": found.num_accepted_distinct,
                    "seconds": found.seconds,
                    "accepted_distinct_per_second": found.accepted_distinct_per_second,
                }
            )
    best = max(settings, key=lambda setting: setting["accepted_distinct_per_second"])
    return {"settings": settings, "best": best}
