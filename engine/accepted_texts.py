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
from functools import lru_cache

import numpy as np

_WORDS_IN_SEQUENCE = 4
_NUM_BANDS = 10
_ROWS = 5
_WORD = re.compile(r"[^\W_]+")
# Multiply-shift hashing (Dietzfelbinger et al. 1997): odd factors, fixed so that runs agree.
_generator = np.random.default_rng(4)
_FACTORS = _generator.integers(0, 2**64, _NUM_BANDS * _ROWS, dtype=np.uint64) | np.uint64(1)
_OFFSETS = _generator.integers(0, 2**64, _NUM_BANDS * _ROWS, dtype=np.uint64)


@lru_cache(maxsize=1024)  # a text is asked for, and then added
def _sequences(text: str) -> "array[int]":
    words = _WORD.findall(text.lower())
    last = max(len(words) - _WORDS_IN_SEQUENCE, 0) + 1
    parts = (" ".join(words[start : start + _WORDS_IN_SEQUENCE]) for start in range(last))
    return array("I", sorted({zlib.crc32(part.encode()) for part in parts}))


def _similarity(one: "array[int]", other: "array[int]") -> float:
    shared = len(set(one).intersection(other))
    return shared / (len(one) + len(other) - shared)


@lru_cache(maxsize=1024)
def _bands(text: str) -> list[bytes]:
    values = np.frombuffer(_sequences(text), dtype=np.uint32).astype(np.uint64)
    hashed = (values[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)
    smallest = hashed.min(axis=0).astype(np.uint32).reshape(_NUM_BANDS, _ROWS)
    return [band.tobytes() for band in smallest]


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

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, molecule_id: str, reason: str) -> None:
        """Take in an accepted reason."""
        number = len(self._texts)
        sequences = _sequences(reason)
        self._texts.append(sequences)
        self._molecules.append(molecule_id)
        self._of_molecule[molecule_id].append(number)
        for bucket, band in zip(self._buckets, _bands(reason), strict=True):
            bucket.setdefault(band, []).append(number)

    def num_accepted(self, molecule_id: str) -> int:
        """Return how many texts are accepted for a molecule."""
        return len(self._of_molecule.get(molecule_id, ()))

    def has_repeat(self, molecule_id: str, reason: str) -> bool:
        """Tell whether a reason is nearly one accepted for the same molecule."""
        sequences = _sequences(reason)
        return any(
            _similarity(sequences, self._texts[number]) >= self._similarity
            for number in self._of_molecule.get(molecule_id, ())
        )

    def has_near_duplicate(self, molecule_id: str, reason: str) -> bool:
        """Tell whether a reason is nearly one accepted for another molecule."""
        sequences = _sequences(reason)
        compared: set[int] = set()
        for bucket, band in zip(self._buckets, _bands(reason), strict=True):
            for number in bucket.get(band, ()):
                if number in compared or self._molecules[number] == molecule_id:
                    continue
                compared.add(number)
                if _similarity(sequences, self._texts[number]) >= self._similarity:
                    return True
        return False
