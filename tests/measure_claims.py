"""How good the check of claims is: figures from judged and from templated claims, and the swap.

`python tests/measure_claims.py` prints them as JSON; test_claims_measured.py holds them to limits.
"""

import itertools
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from claim_templates import make_claims
from samples import SHIPPED

from selfstudy_engine.data.embedded import embedded_table
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.claims import Claim, check_claims
from selfstudy_engine.engine.known_values import KnownValues
from selfstudy_engine.engine.molecule_facts import facts_of

JUDGED = Path(__file__).parent / "data" / "claims_judged.jsonl"
NOT_FOUND = "not found"


@dataclass(frozen=True)
class Judged:
    """A claim of a text, judged by hand from the structure."""

    molecule: Molecule
    reason: str
    span: tuple[int, int]
    label: str
    source: str
    batch: str
    """"first": the check was corrected with these in sight; "second": judged after that."""


def read_judged() -> list[Judged]:
    rows = [orjson.loads(line) for line in JUDGED.read_bytes().splitlines()]
    return [
        Judged(
            _molecule(row["name"], row["smiles"]),
            row["reason"],
            (row["span"][0], row["span"][1]),
            row["label"],
            row["source"],
            row["batch"],
        )
        for row in rows
    ]


@cache
def _molecule(name: str, smiles: str) -> Molecule:
    """Always the same one: from Python 3.13 on, two whose value is NaN are never equal."""
    return Molecule("", name, smiles, math.nan)


def melting_points() -> KnownValues:
    return KnownValues.from_molecules(embedded_table().molecules, find_property("melting_point"))


def truth_in(claims: Iterable[Claim], span: tuple[int, int]) -> str:
    """Return what the check says about a place of the text; a false claim there outweighs."""
    found = {claim.truth for claim in claims if claim.start < span[1] and claim.end > span[0]}
    for truth in ("false", "true", "unverifiable"):
        if truth in found:
            return truth
    return NOT_FOUND


def judged_pairs(
    judged: Sequence[Judged], known: KnownValues
) -> Iterator[tuple[Judged | Claim, str, str]]:
    """Yield (claim, label, what the check says); unjudged verdicts come with the label ""."""
    for (molecule, reason), group in itertools.groupby(judged, lambda j: (j.molecule, j.reason)):
        claims, spans = check_claims(reason, molecule, known), []
        for one in group:
            spans.append(one.span)
            yield one, one.label, truth_in(claims, one.span)
        for claim in claims:
            if not any(claim.start < end and claim.end > start for start, end in spans):
                yield claim, "", claim.truth


def wilson(part: int, whole: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a share."""
    if not whole:
        return 0.0, 1.0
    z = 1.959964
    share = part / whole
    middle = (share + z**2 / (2 * whole)) / (1 + z**2 / whole)
    half = z / (1 + z**2 / whole) * math.sqrt(share * (1 - share) / whole + (z / whole / 2) ** 2)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def measure_judged(judged: Sequence[Judged], known: KnownValues) -> dict[str, Any]:
    """Precision of both verdicts, recall of false claims, and how many were left open."""
    pairs = Counter((label, truth) for _, label, truth in judged_pairs(judged, known))
    figures: dict[str, Any] = {"num_judged": len(judged)}
    for verdict in ("false", "true"):
        given = sum(count for (_, truth), count in pairs.items() if truth == verdict)
        right = pairs[verdict, verdict]
        figures[f"precision of {verdict!r}"] = {
            "right": right, "given": given, "share": right / given, "interval": wilson(right, given)
        }  # fmt: skip
        labelled = sum(count for (label, _), count in pairs.items() if label == verdict)
        figures[f"recall of {verdict!r}"] = {
            "found": right,
            "of": labelled,
            "share": right / labelled,
        }
    open_ = [pairs[label, t] for label in ("true", "false") for t in ("unverifiable", NOT_FOUND)]
    figures["abstained on true or false claims"] = sum(open_)
    figures["abstained on claims labelled unverifiable"] = sum(
        pairs["unverifiable", truth] for truth in ("unverifiable", NOT_FOUND)
    )
    return figures


def measure_templated(known: KnownValues, num_molecules: int, seed: int) -> dict[str, Any]:
    """Recall of single-fact mutations, and true claims that are called false."""
    molecules = embedded_table().molecules
    rng = random.Random(seed)
    chosen = rng.sample(molecules, num_molecules)
    unique = Counter(molecule.name for molecule in molecules)
    plain = [m for m in molecules if unique[m.name] == 1 and m.name.replace(" ", "").isalpha()]
    counts: Counter[tuple[str, bool, str]] = Counter()
    for claim in make_claims(chosen, rng.sample(plain, 500), seed):
        found = truth_in(check_claims(claim.reason, claim.molecule, known), claim.span)
        counts[claim.kind, claim.true, found] += 1
    by_kind = {
        kind: {
            "recall": _share(counts, kind, False, "false"),
            "true called false": _share(counts, kind, True, "false"),
            "true called true": _share(counts, kind, True, "true"),
        }
        for kind in sorted({kind for kind, _, _ in counts})
    }
    return {
        "num_mutated": sum(n for (_, true, _), n in counts.items() if not true),
        "recall": _share(counts, None, False, "false"),
        "true called false": _share(counts, None, True, "false"),
        "by kind": by_kind,
    }


def _share(
    counts: Counter[tuple[str, bool, str]], kind: str | None, true: bool, found: str
) -> float:
    here = {key: n for key, n in counts.items() if key[0] == (kind or key[0]) and key[1] is true}
    return sum(n for key, n in here.items() if key[2] == found) / sum(here.values())


def measure_swap(known: KnownValues, num_others: int, seed: int) -> dict[str, Any]:
    """Share of reasons with a false claim: own molecule, and random molecules of the table.

    The reasons are those of the shipped exemplars, and the judged ones of which each claim is true.
    """
    by_reason: dict[tuple[Molecule, str], set[str]] = {}
    for one in read_judged():
        by_reason.setdefault((one.molecule, one.reason), set()).add(one.label)
    sound = [key for key, labels in by_reason.items() if labels == {"true"}]
    sound += [(exemplar.molecule, exemplar.reason) for exemplar in SHIPPED]
    molecules, rng = embedded_table().molecules, random.Random(seed)
    own = sum(_has_false(reason, molecule, known) for molecule, reason in sound)
    swapped = sum(
        _has_false(reason, other, known)
        for _, reason in sound
        for other in rng.sample(molecules, num_others)
    )
    return {
        "num_reasons": len(sound),
        "own": own / len(sound),
        "swapped": swapped / (len(sound) * num_others),
    }


def measure_speed(known: KnownValues) -> dict[str, Any]:
    """Reasons per second of one core, every molecule seen for the first time; best of five."""
    judged = {(one.molecule, one.reason) for one in read_judged()}
    best = math.inf
    for _ in range(5):
        facts_of.cache_clear()
        started = time.process_time()
        for molecule, reason in judged:
            check_claims(reason, molecule, known)
        best = min(best, time.process_time() - started)
    characters = sum(len(reason) for _, reason in judged) / len(judged)
    return {"mean characters": round(characters), "reasons per second": round(len(judged) / best)}


def _has_false(reason: str, molecule: Molecule, known: KnownValues) -> bool:
    return any(claim.truth == "false" for claim in check_claims(reason, molecule, known))


def main() -> None:
    """Print all figures."""
    known, judged = melting_points(), read_judged()
    figures = {
        "judged": measure_judged(judged, known),
        "judged second": measure_judged([j for j in judged if j.batch == "second"], known),
        "templated": measure_templated(known, 1000, seed=1),
        "swap": measure_swap(known, 100, seed=1),
        "speed": measure_speed(known),
    }
    sys.stdout.buffer.write(orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
