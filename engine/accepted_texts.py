"""What a run has accepted so far: how many texts for each molecule, and texts much like another.

Two texts are near-duplicates if the Jaccard similarity of their sets of four-word sequences
reaches a limit. Candidates come from MinHash in bands (Broder 1997; Leskovec, Rajaraman, Ullman,
Mining of Massive Datasets, chapter 3), and each is compared in full: nothing is called similar
that isn't, and a pair at the limit of 0.8 is missed 2 times in 100.
"""

import re
import zlib
from array import array
from collections import defaultdict
from typing import NamedTuple, Self

import numpy as np

_WORDS_IN_SEQUENCE = 4
_NUM_BANDS = 10
_ROWS = 5
_WORD = re.compile(r"[^\W_]+")
# Multiply-shift hashing (Dietzfelbinger et al. 1997): odd factors, fixed so that runs agree.
_generator = np.random.default_rng(4)
_FACTORS = _generator.integers(0, 2**64, _NUM_BANDS * _ROWS, dtype=np.uint64) | np.uint64(1)
_OFFSETS = _generator.integers(0, 2**64, _NUM_BANDS * _ROWS, dtype=np.uint64)


class Fingerprint(NamedTuple):
    """What of a text tells how much it is like others.

    A tuple, which comes from other processes in less time than an object.
    """

    sequences: "array[int]"
    """Hashes (CRC-32) of its four-word sequences, ascending."""
    bands: tuple[bytes, ...]
    """Of its MinHash: texts that share one are compared."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Take a text's fingerprint; case and punctuation don't count."""
        words = _WORD.findall(text.lower())
        last = max(len(words) - _WORDS_IN_SEQUENCE, 0) + 1
        parts = (" ".join(words[start : start + _WORDS_IN_SEQUENCE]) for start in range(last))
        sequences = array("I", sorted({zlib.crc32(part.encode()) for part in parts}))
        values = np.frombuffer(sequences, dtype=np.uint32).astype(np.uint64)
        hashed = (values[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)
        smallest = hashed.min(axis=0).astype(np.uint32).reshape(_NUM_BANDS, _ROWS)
        return cls(sequences, tuple(band.tobytes() for band in smallest))


class AcceptedTexts:
    """An index of accepted reasons; with 100,000 of them a question takes less than 1 ms.

    Args:
        similarity: from this Jaccard similarity on (0 to 1) two texts count as near-duplicates.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._texts: list[array[int]] = []
        self._molecules: list[str] = []
        self._of_molecule: defaultdict[str, list[int]] = defaultdict(list)
        self._buckets: list[dict[bytes, list[int]]] = [{} for _ in range(_NUM_BANDS)]

    def add(self, molecule_id: str, reason: Fingerprint) -> None:
        """Take in an accepted reason."""
        number = len(self._texts)
        self._texts.append(reason.sequences)
        self._molecules.append(molecule_id)
        self._of_molecule[molecule_id].append(number)
        for bucket, band in zip(self._buckets, reason.bands, strict=True):
            bucket.setdefault(band, []).append(number)

    def num_accepted(self, molecule_id: str) -> int:
        """Return how many texts are accepted for a molecule."""
        return len(self._of_molecule.get(molecule_id, ()))

    def has_repeat(self, molecule_id: str, reason: Fingerprint) -> bool:
        """Tell whether a reason is nearly one accepted for the same molecule."""
        sequences = frozenset(reason.sequences)
        numbers = self._of_molecule.get(molecule_id, ())
        return any(self._is_near(sequences, number) for number in numbers)

    def has_near_duplicate(self, molecule_id: str, reason: Fingerprint) -> bool:
        """Tell whether a reason is nearly one accepted for another molecule."""
        sequences = frozenset(reason.sequences)
        compared: set[int] = set()
        for bucket, band in zip(self._buckets, reason.bands, strict=True):
            for number in bucket.get(band, ()):
                if number in compared or self._molecules[number] == molecule_id:
                    continue
                compared.add(number)
                if self._is_near(sequences, number):
                    return True
        return False

    def _is_near(self, sequences: frozenset[int], number: int) -> bool:
        other = self._texts[number]
        fewer, more = sorted((len(sequences), len(other)))
        if fewer / more < self._similarity:  # even if all were shared
            return False
        shared = len(sequences.intersection(other))
        return shared / (len(sequences) + len(other) - shared) >= self._similarity
