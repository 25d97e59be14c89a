"""A table's rows are streamed: `measure_tables.py` shows it for ten million of them."""

from measure_tables import measure


def test_memory_doesnt_grow_with_a_table() -> None:
    small, large = measure(700), measure(12_000, "n" * 5000)
    assert large.megabytes > 60
    assert large.peak_megabytes - small.peak_megabytes < large.megabytes / 2
