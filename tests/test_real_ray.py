"""Real vLLM on a Ray cluster of three nodes: a node dies in a round, a server dies in a swap.

Its own processes are pinned, so that two servers compute beside each other on two cores.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_nodes import RayNodes
from test_ray import Misfortunes, check_whole

from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.loop import run_loop

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(3600)]
NUM_ROUNDS = 4
SAMPLES_PER_ROUND = 32
PROVEN = "answers again, proven"


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    first, *others = sorted(os.sched_getaffinity(0))
    last = others[-1] if others else first
    with RayNodes(cores=({last}, {first}, {last})) as started:
        yield started


def test_killed_nodes_and_servers_cost_what_they_were_asked_and_nothing_else(
    nodes: RayNodes, table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # A swap takes a second: publish, drain, merge, reset, canary. A server that isn't back yet from
    # the first misfortune takes no part in it.
    reporter = Misfortunes(
        nodes, num_answers=12, swap_seconds=0.5, may_hit=lambda: PROVEN in caplog.text
    )
    config = load_config(
        None,
        {
            "name": "test",
            "rounds": NUM_ROUNDS,
            "table.path": str(table),
            "table.test_size": 6,
            "property.tolerance": 300.0,  # nearly all, so that no adapter is like another
            "generation.batch": SAMPLES_PER_ROUND,
            "generation.concurrency": 4,
            "train.min_steps": 20,
            "train.epochs": 0.5,
            "train.rank": 8,
            "train_evaluation_size": 0,
            "server.ray": nodes.address,
            "server.replicas": 2,
            "server.max_model_len": 512,
            "server.kv_cache_gib": 1,
            "report": "off",
        },
    )
    records = run_loop(config, tmp_path, reporter)
    assert len(reporter.killed) == 2
    assert [record.round for record in records] == [*range(NUM_ROUNDS + 1)]
    folder = RunFolder(tmp_path / "test")
    check_whole(folder, NUM_ROUNDS * SAMPLES_PER_ROUND)
    samples = [*SampleStore(folder.samples).samples()]
    assert {sample.round for sample in samples} == {*range(NUM_ROUNDS)}
    assert len({sample.adapter_sha256 for sample in samples}) == NUM_ROUNDS
    assert caplog.text.count("is quarantined") >= 2
    assert caplog.text.count(PROVEN) >= 1
    left = [process.name() for process in nodes.processes()]
    assert not [name for name in left if "ray::" not in name], "nothing of vLLM outlives the loop"
