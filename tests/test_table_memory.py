"""A table's rows are streamed: `measure_tables.py` shows it for ten million of them."""

from measure_tables import measure


def test_memory_doesnt_grow_with_a_table() -> None:
    small, large = measure(700), measure(60_000, "n" * 5000)
    assert (small.num_molecules, large.num_molecules) == (700, 700)
    assert large.megabytes > 300
    # What is read ahead is in it; a table that is read whole takes more than its file.
    assert large.peak_megabytes - small.peak_megabytes < 0.75 * large.megabytes
