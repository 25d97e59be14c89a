"""Looks at a server's metrics: while something runs in it, while nothing does, and unanswered."""

import time
from typing import Any

import httpx
import pytest
from fake_vllm import FakeVllm

from selfstudy_engine.engine.bench_idle import IdleWatch


def wait_for_looks(fake: FakeVllm, number: int) -> None:
    """Wait for so many more; all but the last are answered then."""
    deadline, until = time.monotonic() + 30, fake.paths.count("/metrics") + number
    while fake.paths.count("/metrics") < until:
        assert time.monotonic() < deadline, "nobody looks any more"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [{"refuse": True}, {"cut": True}, {"status": 503}])
def test_a_look_that_fails_is_missed_and_the_next_one_counts(
    fake: FakeVllm, caplog: pytest.LogCaptureFixture, how: dict[str, Any]
) -> None:
    fake.fail_next("/metrics", times=2, **how)
    with IdleWatch(fake.endpoint, 0.01) as watch:
        wait_for_looks(fake, 4)
    num_looks = fake.paths.count("/metrics")
    assert watch.missed_share == 2 / num_looks
    assert ("didn't answer" in caplog.text) == (num_looks < 20)


def test_the_idle_share_is_of_the_time_between_the_first_request_and_the_last(
    fake: FakeVllm, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(*request: object) -> str:
        wait_for_looks(fake, 2)
        return "text"

    fake.script = answer
    body = {"model": fake.model, "prompt": "SMILES: C", "n": 1, "max_tokens": 8}
    with IdleWatch(fake.endpoint, 0.01) as watch:
        wait_for_looks(fake, 2)
        assert (watch.idle_share, watch.seconds) == (None, 0)
        for _ in range(2):
            url = f"{fake.url}/v1/completions"
            httpx.post(url, json=body, headers=fake.endpoint.headers).raise_for_status()
            wait_for_looks(fake, 2)
    assert 0 < (watch.idle_share or 0) < 1
    assert watch.seconds > 0
    assert watch.missed_share == 0
    assert not caplog.records
