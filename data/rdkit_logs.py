"""RDKit writes what it can't parse to stderr; here it is data, and named by who reads it."""

from collections.abc import Iterator
from contextlib import contextmanager

from rdkit import rdBase


@contextmanager
def quiet_rdkit() -> Iterator[None]:
    """Keep RDKit from writing each SMILES that it can't parse to stderr."""
    block = rdBase.BlockLogs()
    try:
        yield
    finally:
        del block
