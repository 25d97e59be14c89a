"""The controller, against servers that are queues with a capacity."""

import math
from dataclasses import dataclass

import pytest

from selfstudy_engine.engine.concurrency import (
    MAXIMUM,
    MINIMUM,
    START,
    ConcurrencyController,
    ServerLoad,
    parse_load,
    wanted_queue,
)


@dataclass
class QueueModel:
    """A server: a batch of at most `capacity`, of which a share finishes between two looks.

    With `cache` completions' worth of KV cache, more than that in the batch is preempted.
    """

    capacity: int
    cache: float = 1e9
    finishing: float = 0.3
    prefill: int = 10_000
    """Completions that can enter the batch between two looks."""
    step_looks: int = 1
    """Looks for which the metrics stay as they are: a step of the server takes so long."""
    running: int = 0
    waiting: int = 0
    num_preemptions: int = 0
    idle: int = 0
    """Places in the batch that stayed empty, summed over the looks since the last reset."""
    in_flight: int = 0
    num_looks: int = 0
    shown: ServerLoad | None = None

    def look(self, limit: int) -> ServerLoad:
        """Let time pass until the next look; the client fills up to its limit all the while."""
        self.in_flight = max(self.in_flight, limit)
        self.num_looks += 1
        if self.shown is None or self.num_looks % self.step_looks == 0:
            self.shown = self._step(limit)
            self.in_flight = self.running + self.waiting
        return self.shown

    def _step(self, limit: int) -> ServerLoad:
        self.running -= math.ceil(self.running * self.finishing)
        self.waiting += max(0, limit - self.running - self.waiting)
        entering = min(self.waiting, self.capacity - self.running, self.prefill)
        self.running += entering
        self.waiting -= entering
        if self.running > self.cache:
            over = self.running - int(self.cache)
            self.num_preemptions += over
            self.running -= over
            self.waiting += over
        self.idle += int(min(self.capacity, self.cache)) - self.running
        usage = min(1.0, self.running / self.cache) + 1e-9 * self.num_looks  # never twice the same
        return ServerLoad(self.running, self.waiting, usage, self.num_preemptions)


def run(model: QueueModel, controller: ConcurrencyController, num_looks: int) -> list[ServerLoad]:
    loads = []
    for _ in range(num_looks):
        loads.append(model.look(controller.limit))
        controller.update(loads[-1], in_flight=model.in_flight, held_back=True)
    return loads


@pytest.mark.parametrize("capacity", [8, 100, 128, 256, 1024])
@pytest.mark.parametrize("finishing", [0.02, 0.3, 0.9])
def test_a_short_queue_waits_before_a_full_batch(capacity: int, finishing: float) -> None:
    model, controller = QueueModel(capacity, finishing=finishing), ConcurrencyController()
    run(model, controller, 100)
    model.idle = 0
    loads = run(model, controller, 100)
    assert model.idle == 0
    assert min(load.waiting for load in loads) > 0
    assert max(load.waiting for load in loads) <= 2 * wanted_queue(capacity)


@pytest.mark.parametrize("step_looks", [3, 10])
def test_metrics_that_lag_arent_acted_on_twice(step_looks: int) -> None:
    """A step on a CPU takes seconds, in which the metrics don't move."""
    model, controller = QueueModel(128, step_looks=step_looks), ConcurrencyController()
    loads = run(model, controller, 30 * step_looks)
    assert max(load.waiting for load in loads) <= 128
    model.idle = 0
    loads = run(model, controller, 30 * step_looks)
    assert model.idle == 0
    assert max(load.waiting for load in loads) <= 3 * wanted_queue(128)


def test_a_large_server_is_filled_within_seconds() -> None:
    model, controller = QueueModel(1024), ConcurrencyController()
    loads = run(model, controller, 6)  # 3 s at two looks a second
    assert loads[-1].running == 1024


def test_nothing_is_preempted_for_long_and_the_cache_stays_in_use() -> None:
    model = QueueModel(capacity=1024, cache=200)
    controller = ConcurrencyController()
    run(model, controller, 60)
    preempted = model.num_preemptions
    loads = run(model, controller, 200)
    assert model.num_preemptions == preempted
    assert min(load.running for load in loads) >= 0.8 * 200


def test_a_cache_that_gets_tight_is_given_way_to() -> None:
    """Sequences grow longer than they were: what fitted doesn't any more."""
    model, controller = QueueModel(capacity=256), ConcurrencyController()
    run(model, controller, 50)
    before = controller.limit
    model.cache = 100
    loads = run(model, controller, 40)
    assert controller.limit < 0.5 * before
    late = loads[20:]
    assert late[0].num_preemptions == late[-1].num_preemptions
    assert min(load.running for load in late) >= 75
    model.cache = 1e9
    run(model, controller, 60)
    assert model.running == 256


def test_a_batch_that_fills_prompt_by_prompt_is_waited_for() -> None:
    """Long prompts enter a few at a time: a long queue then is no reason to ask for less."""
    model, controller = QueueModel(capacity=256, finishing=0, prefill=4), ConcurrencyController()
    run(model, controller, 15)
    assert controller.limit == START
    assert model.running == 60


def test_a_reader_that_takes_its_time_doesnt_raise_the_limit() -> None:
    controller = ConcurrencyController()
    for _ in range(20):
        controller.update(ServerLoad(3, 0, 0.01, 0), in_flight=4, held_back=False)
    assert controller.limit == START


def test_the_limit_has_limits() -> None:
    controller = ConcurrencyController()
    for _ in range(40):
        controller.update(ServerLoad(10**6, 0, 0.0, 0), in_flight=10**6, held_back=True)
    assert controller.limit == MAXIMUM
    for number in range(400):
        controller.update(ServerLoad(0, 50, 1.0, number), in_flight=50, held_back=True)
    assert controller.limit == MINIMUM


def test_a_restarted_servers_counter_is_no_preemption() -> None:
    controller = ConcurrencyController()
    for num_preemptions in (500, 0):
        load = ServerLoad(64, 8, 0.3, num_preemptions)
        controller.update(load, in_flight=72, held_back=True)
    assert controller.limit == START


def test_the_metrics_page_is_read_by_exact_name() -> None:
    page = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="a {b} c"} 12.0
vllm:num_requests_running{engine="1",model_name="a {b} c"} 30.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:num_requests_waiting{engine="1"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 77.0
vllm:kv_cache_usage_perc{engine="0"} 2.5e-05
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:num_preemptions_total{engine="0"} 1e+02
vllm:num_preemptions_created{engine="0"} 1.7e+09
"""
    assert parse_load(page) == ServerLoad(42, 3, 0.75, 100)
    assert parse_load("<html>Sign in</html>") is None
