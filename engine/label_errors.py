"""A store of samples in, molecules whose measured value may be wrong out: for a human to look at.

Where many answers agree with one another and lie far from the table, either the model is wrong in
the same way each time, or the table is. Nothing is changed here.
"""

import statistics
from collections import defaultdict
from dataclasses import dataclass, replace

from selfstudy_engine.data.store import SampleStore

_COLUMNS = ("hinted", "findings", "molecule_id", "name", "smiles", "measured", "predicted", "round")


@dataclass(frozen=True, slots=True)
class Suspect:
    """A molecule whose answers agree far from the table; values in the property's unit."""

    molecule_id: str
    name: str
    smiles: str
    measured: float
    """As the table said when the latest sample was judged."""
    median: float
    """Of the answers."""
    agreeing: float
    """Share of the answers within the tolerance of their median."""
    num_answers: int
    num_rounds: int
    """Rounds, and so adapters, that the answers come from."""
    reason: str
    """Of the answer nearest to the median."""

    @property
    def distance(self) -> float:
        """How far the answers' median lies from the measured value, with its sign."""
        return self.median - self.measured


def find_label_errors(
    store: SampleStore,
    *,
    tolerance: float,
    min_answers: int,
    min_agreeing: float,
    min_distance: float,
) -> list[Suspect]:
    """Return the molecules whose answers agree far from the table, the farthest first.

    Args:
        store: all its answers with a value count, accepted or not; hinted ones don't, nor those
            about rows that were withdrawn.
        tolerance: answers this near to their median agree, in the property's unit.
        min_answers: a molecule with fewer answers isn't judged.
        min_agreeing: share of the answers that must agree, 0 to 1.
        min_distance: of the median from the measured value, in the property's unit.
    """
    answers: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    latest: dict[str, tuple[str, str, float]] = {}
    rows = store.rows(None, *_COLUMNS)
    for hinted, findings, molecule_id, name, smiles, measured, predicted, round_index in rows:
        if hinted or "withdrawn" in findings:
            continue  # given in sight of the value, or the table has its row no more
        latest[molecule_id] = (name, smiles, measured)
        if predicted is not None:
            answers[molecule_id].append((predicted, round_index))
    suspects: dict[str, Suspect] = {}
    for molecule_id, given in answers.items():
        median = statistics.median(value for value, _ in given)
        agreeing = sum(abs(value - median) <= tolerance for value, _ in given) / len(given)
        name, smiles, measured = latest[molecule_id]
        if (
            len(given) >= min_answers
            and agreeing >= min_agreeing
            and abs(median - measured) >= min_distance
        ):
            num_rounds = len({round_index for _, round_index in given})
            suspects[molecule_id] = Suspect(
                *(molecule_id, name, smiles, measured, median, agreeing, len(given), num_rounds, "")
            )
    return sorted(_with_reasons(store, suspects), key=lambda found: -abs(found.distance))


def _with_reasons(store: SampleStore, suspects: dict[str, Suspect]) -> list[Suspect]:
    """Look up one reason for each suspect: all reasons of a store wouldn't fit into memory."""
    best: dict[str, tuple[float, str]] = {}
    columns = ("hinted", "molecule_id", "predicted", "reason")
    for hinted, molecule_id, predicted, reason in store.rows(None, *columns):
        if molecule_id in suspects and predicted is not None and not hinted:
            distance = abs(predicted - suspects[molecule_id].median)
            if molecule_id not in best or distance < best[molecule_id][0]:
                best[molecule_id] = (distance, reason)
    return [replace(found, reason=best[key][1]) for key, found in suspects.items()]
