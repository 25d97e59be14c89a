"""SMILES in, numbers out: what models that aren't language models see of a molecule."""

import tomllib
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator

from selfstudy_engine.data.rdkit_logs import quiet_rdkit

NUM_BITS = 2048
_LARGEST = 1e9
_OF_POLYNOMIAL = ("Ipc", "AvgIpc")
_MOST_ATOMS_OF_POLYNOMIAL = 200
"""Beyond them the characteristic polynomial costs seconds and has lost all its digits."""
_REMEMBERED = 20_000
"""Molecules whose features are kept: rounds share most of theirs."""
Floats32 = npt.NDArray[np.float32]


def counts_and_descriptors(smiles: Sequence[str]) -> Floats32:
    """Return Morgan counts (radius 2) and RDKit's descriptors, shape (n, 2048 + descriptors)."""
    return np.stack([_counts_and_descriptors(text) for text in smiles])


def joback_counts(smiles: Sequence[str]) -> Floats32:
    """Return how often each group of Joback & Reid occurs, shape (n, 41)."""
    return np.stack([_joback_counts(text) for text in smiles])


def similarities(smiles: Sequence[str], others: Sequence[str]) -> Floats32:
    """Return the Tanimoto similarities of Morgan fingerprints, shape (n, m), from 0 to 1.

    >>> similarities(["CCO"], ["CCO", "c1ccccc1"]).round(1).tolist()
    [[1.0, 0.0]]
    """
    left, right = (np.stack([_bits(text) for text in texts]) for texts in (smiles, others))
    shared = left @ right.T
    either = left.sum(axis=1)[:, None] + right.sum(axis=1)[None] - shared
    share: Floats32 = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    return share


def _mol(smiles: str) -> Any:
    with quiet_rdkit():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise ValueError(f"RDKit finds no molecule in {smiles!r}")
    return mol


@lru_cache(maxsize=1)
def _generator() -> Any:
    return rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=NUM_BITS)


@lru_cache(maxsize=_REMEMBERED)
def _bits(smiles: str) -> Floats32:
    return np.asarray(_generator().GetFingerprintAsNumPy(_mol(smiles)), dtype=np.float32)


@lru_cache(maxsize=_REMEMBERED)
def _counts_and_descriptors(smiles: str) -> Floats32:
    mol = _mol(smiles)
    counts = _generator().GetCountFingerprintAsNumPy(mol)
    values = np.concatenate([counts, np.array(_descriptors(mol), dtype=np.float64)])
    # Some descriptors are infinite or beyond what trees take (float32).
    finite = np.nan_to_num(values, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST)
    return np.asarray(np.clip(finite, -_LARGEST, _LARGEST), dtype=np.float32)


def _descriptors(mol: Any) -> list[float]:
    """Return RDKit's descriptors, 0 where one can't be computed."""
    values, is_large = [], mol.GetNumHeavyAtoms() > _MOST_ATOMS_OF_POLYNOMIAL
    with quiet_rdkit():
        for name, describe in Descriptors.descList:
            try:
                values.append(0.0 if is_large and name in _OF_POLYNOMIAL else describe(mol))
            except Exception:  # noqa: BLE001 - as in CalcMolDescriptors, which leaves none out
                values.append(0.0)
    return values


@lru_cache(maxsize=1)
def joback_groups() -> dict[str, Any]:
    """Return each group's query molecule by name."""
    text = (
        resources.files("selfstudy_engine.data").joinpath("joback_groups.toml").read_text("utf-8")
    )
    return {
        name: Chem.MolFromSmarts(smarts) for name, smarts in tomllib.loads(text)["groups"].items()
    }


@lru_cache(maxsize=_REMEMBERED)
def _joback_counts(smiles: str) -> Floats32:
    mol = _mol(smiles)
    counts = [len(mol.GetSubstructMatches(query)) for query in joback_groups().values()]
    return np.array(counts, dtype=np.float32)
