"""A server that ended: the message has what vLLM's outer processes only point to."""

from selfstudy_engine.engine.server_failure import explain_end

CAUSE = "RuntimeError: Insufficient space in /dev/shm: 160 MiB required, 62 MiB free."
TRACE = [f'  File "vllm/v1/engine/{number}.py", line {number}' for number in range(40)]
OUTER = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
)
START = "$ python -m vllm.entrypoints.openai.api_server --model tiny"


def of_the_engine(line: str) -> str:
    return f"(EngineCore pid=56) ERROR 11-29 08:35:41 [core.py:1510] {line}"


def test_the_cause_stands_before_the_last_lines() -> None:
    log = [START, *map(of_the_engine, ["Traceback", *TRACE, CAUSE]), *TRACE, CAUSE, *TRACE, OUTER]
    first, between, *rest = explain_end(log).splitlines()
    assert first == f"  {CAUSE}"
    assert between == "  ..."
    assert rest[-1] == f"  {OUTER}"
    assert len(rest) == 12


def test_of_errors_that_point_on_the_one_they_point_to_counts() -> None:
    worker = "(Worker pid=9) ERROR 11-29 08:35:41 [multiproc_executor.py:870] "
    oom = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    pointing = "Exception: WorkerProc initialization failed. See stack trace for root cause."
    log = [START, worker + oom, of_the_engine(pointing), *TRACE, OUTER]
    assert explain_end(log).startswith(f"  {oom}\n  ...\n")


def test_an_earlier_starts_errors_dont_count() -> None:
    log = [START, "ValueError: of yesterday", START, of_the_engine(CAUSE), *TRACE, OUTER]
    assert explain_end(log).startswith(f"  {CAUSE}\n")
    killed = [START, "ValueError: of yesterday", START, *TRACE, OUTER]
    assert "yesterday" not in explain_end(killed)


def test_what_the_last_lines_show_anyway_isnt_said_twice() -> None:
    assert explain_end([START, of_the_engine(CAUSE), OUTER]).count("Insufficient") == 1


def test_without_a_pointer_the_last_lines_are_all() -> None:
    log = [START, "ValueError: answered with 400, and gone on", *TRACE, "usage: api_server.py"]
    assert explain_end(log).splitlines() == [f"  {line}" for line in log[-12:]]
    assert explain_end([]) == ""
