"""Peak memory and time of reading tables: `python tests/measure_tables.py 100000 1000000`.

Each table is made up of 700 molecules, and read in a process of its own.
"""

import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from selfstudy_engine.data.config_sources import TableConfig
from selfstudy_engine.data.molecules import canonicalize
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.table_files import read_rows

_SMILES = [f"{'C' * left}O{'C' * right}" for left in range(1, 41) for right in range(1, 26)]
_READ = "import measure_tables, pathlib, sys; measure_tables.read(pathlib.Path(sys.argv[1]))"


@dataclass(frozen=True)
class Reading:
    """What reading one table took."""

    megabytes: float
    """Of the file."""
    seconds: float
    num_molecules: int
    peak_megabytes: float


def write_table(path: Path, num_rows: int, note: str) -> None:
    """Write a CSV table with a note in each row; the values of each molecule agree."""
    generator = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("smiles,value,note\n")
        for index in range(num_rows):
            smiles = _SMILES[index % len(_SMILES)]
            value = len(smiles) + generator.random()
            file.write(f"{smiles},{value:.3f},{note}\n")


def read(path: Path) -> None:
    """Print seconds, molecules and this process's peak memory in MB."""
    prop, started = find_property("melting_point"), time.monotonic()
    rows = read_rows(path, TableConfig(), prop)
    table = canonicalize(rows, prop, TableConfig(), path.name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    seconds = time.monotonic() - started
    sys.stdout.write(f"{seconds:.2f} {len(table.molecules)} {peak:.1f}\n")


def measure(num_rows: int, note: str = "as reported") -> Reading:
    """Make a table up and read it in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="selfstudy-table-") as folder:
        path = Path(folder) / "table.csv"
        write_table(path, num_rows, note)
        command = [sys.executable, "-c", _READ, str(path)]
        here = Path(__file__).parent
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        seconds, num_molecules, peak = done.stdout.split()
        size = path.stat().st_size / 1e6
        return Reading(size, float(seconds), int(num_molecules), float(peak))


def main() -> None:
    """Measure tables of as many rows as the command line says."""
    for text in sys.argv[1:]:
        found = measure(int(text))
        sys.stdout.write(
            f"{int(text):,} rows, {found.megabytes:.0f} MB: {found.num_molecules} molecules in "
            f"{found.seconds:.0f} s, peak memory {found.peak_megabytes:.0f} MB\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
