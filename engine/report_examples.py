"""Answers in, examples to look at out: the molecule drawn beside question, reason and value."""

import base64
import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from rdkit.Chem.Draw import rdMolDraw2D

from selfstudy_engine.data.evaluations import Evaluated
from selfstudy_engine.data.schema import Molecule, Sample
from selfstudy_engine.data.smiles import parse_smiles
from selfstudy_engine.engine.baselines import FOREST, MEDIAN
from selfstudy_engine.engine.reason_quality import CheckReason, Piece, mark_claims
from selfstudy_engine.engine.report_facts import RoundFacts, RunFacts

PER_KIND = 4
_NUM_LABEL_ERRORS = 8
_WIDTH, _HEIGHT = 240, 170


@dataclass(frozen=True, slots=True)
class Example:
    """One answer to show."""

    kind: str
    """Why it is shown: "best", "median", "worst" or "accepted"."""
    name: str
    smiles: str
    drawing: str
    """Address of the picture (see `draw`); empty where it can't be drawn."""
    measured: float
    predicted: float | None
    first_predicted: float | None
    """What round 0 answered, for a molecule of its test set."""
    pieces: list[Piece]
    """The reason, its claims marked."""
    verdict: str

    @property
    def error(self) -> float | None:
        """predicted - measured."""
        return None if self.predicted is None else self.predicted - self.measured


@dataclass(frozen=True, slots=True)
class Suspect:
    """A molecule of the test set whose label all methods contradict."""

    name: str
    smiles: str
    drawing: str
    measured: float
    consensus: float
    """Median of the methods' predictions."""
    lowest: float
    highest: float


def choose_examples(run: RunFacts, check: CheckReason) -> list[Example]:
    """Return the best, median and worst answers of the last round, and accepted samples."""
    last = run.last
    first = {answer.molecule_id: answer.predicted for answer in run.rounds[0].tested}
    ranked = sorted(
        (answer for answer in last.tested if answer.predicted is not None),
        key=lambda answer: abs((answer.predicted or 0.0) - answer.measured),
    )
    middle = max(0, len(ranked) // 2 - PER_KIND // 2)
    groups = {
        "best": ranked[:PER_KIND],
        "median": ranked[middle : middle + PER_KIND],
        "worst": ranked[-PER_KIND:][::-1],
    }
    shown: set[str] = set()
    examples = []
    for kind, answers in groups.items():
        for answer in answers:
            if answer.molecule_id in shown:
                continue
            shown.add(answer.molecule_id)
            before = first.get(answer.molecule_id)
            examples.append(_of_answer(kind, answer, before, run, check))
    sampled = [facts for facts in run.rounds if facts.reasons]
    if sampled:
        chosen = sampled[-1].reasons[:PER_KIND]
        examples += [_of_sample(sample, check) for sample in chosen]
    return examples


def likely_label_errors(run: RunFacts) -> list[Suspect]:
    """Return test molecules that every method puts far from the table, and near each other.

    The model's median over rounds 1 and later, and each baseline but the constant: all on one side
    of the table's value, at least two tolerances away, and within two tolerances of each other.
    """
    tolerance = run.config.property.tolerance
    facts = next((facts for facts in reversed(run.rounds) if FOREST in facts.baselines), None)
    later: defaultdict[str, list[float]] = defaultdict(list)
    for answer in (a for facts in run.rounds if facts.index > 0 for a in facts.tested):
        if answer.predicted is not None:
            later[answer.molecule_id].append(answer.predicted)
    if facts is None:
        return []
    suspects = []
    for index, answer in enumerate(facts.tested):
        given = later[answer.molecule_id]
        if not given:
            continue
        others = [float(v[index]) for name, v in facts.baselines.items() if name != MEDIAN]
        methods = [float(np.median(given)), *others]
        off = [value - answer.measured for value in methods]
        one_side = min(off) > 0 or max(off) < 0
        far = min(map(abs, off)) >= 2 * tolerance
        if one_side and far and max(methods) - min(methods) <= 2 * tolerance:
            suspects.append(
                Suspect(
                    answer.name,
                    answer.smiles,
                    draw(answer.smiles),
                    answer.measured,
                    float(np.median(methods)),
                    min(methods),
                    max(methods),
                )
            )
    suspects.sort(key=lambda suspect: -abs(suspect.consensus - suspect.measured))
    return suspects[:_NUM_LABEL_ERRORS]


def draw(smiles: str) -> str:
    """Return a molecule as an image's address (SVG in it); empty where RDKit can't draw it.

    As an image and not as markup: a picture runs no script, whatever a table's SMILES holds.
    """
    mol = parse_smiles(smiles)
    if mol is None:
        return ""
    drawing = rdMolDraw2D.MolDraw2DSVG(_WIDTH, _HEIGHT)
    drawing.drawOptions().clearBackground = False  # type: ignore[assignment]
    rdMolDraw2D.PrepareAndDrawMolecule(drawing, mol)
    drawing.FinishDrawing()
    svg = re.sub(r"<!--.*?-->\s*|\s+class='[^']*'", "", drawing.GetDrawingText(), flags=re.DOTALL)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def reasons_of(facts: RoundFacts) -> list[tuple[str, Molecule]]:
    """Return reasons that a round accepted, unhinted, with the molecules that they are about."""
    return [(sample.reason, _molecule(sample)) for sample in facts.reasons if not sample.hinted]


def _molecule(of: Evaluated | Sample) -> Molecule:
    return Molecule(of.molecule_id, of.name, of.smiles, of.measured)


def _pieces(reason: str, molecule: Molecule, check: CheckReason) -> list[Piece]:
    return mark_claims(reason, check(reason, molecule))


def _of_answer(
    kind: str, answer: Evaluated, before: float | None, run: RunFacts, check: CheckReason
) -> Example:
    assert answer.predicted is not None
    error = abs(answer.predicted - answer.measured)
    tolerance = run.config.property.tolerance
    within = "within" if error <= tolerance else "outside"
    return Example(
        kind=kind,
        name=answer.name,
        smiles=answer.smiles,
        drawing=draw(answer.smiles),
        measured=answer.measured,
        predicted=answer.predicted,
        first_predicted=before,
        pieces=_pieces(answer.reason, _molecule(answer), check),
        verdict=f"{within} the tolerance of {tolerance:g} {run.unit}",
    )


def _of_sample(sample: Sample, check: CheckReason) -> Example:
    return Example(
        kind="accepted",
        name=sample.name,
        smiles=sample.smiles,
        drawing=draw(sample.smiles),
        measured=sample.measured,
        predicted=sample.predicted,
        first_predicted=None,
        pieces=_pieces(sample.reason, _molecule(sample), check),
        verdict=f"accepted in round {sample.round}" + (", hinted" if sample.hinted else ""),
    )
