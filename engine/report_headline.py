"""Facts of a run in, what they come to out: did it learn, and is it any good?"""

from dataclasses import dataclass

import numpy as np

from selfstudy_engine.data.errors import counted
from selfstudy_engine.data.evaluations import commonest_value, errors_of
from selfstudy_engine.data.metrics import ENOUGH_FOR_A_VERDICT, Interval, measure_change
from selfstudy_engine.data.properties import Property
from selfstudy_engine.engine.baselines import MEDIAN
from selfstudy_engine.engine.metric_texts import (
    ONE_TRAINING,
    Outcome,
    cells_of,
    columns_of,
    gathered,
    minus,
    outcome_of,
    ranged,
    signed,
)
from selfstudy_engine.engine.report_facts import RunFacts


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of results: a round of the model, or a baseline."""

    name: str
    cells: list[str]
    versus: str
    """Its MAE minus the model's last round's, paired."""
    is_model: bool


@dataclass(frozen=True, slots=True)
class Headline:
    """The answer, in sentences, with the table that it rests on."""

    outcome: Outcome | None
    """Of the last round against round 0; None with one round."""
    verdict: str
    sentences: list[str]
    columns: list[str]
    rows: list[Row]


def headline(run: RunFacts) -> Headline:
    """Return what a run shows: the change since round 0, and the place among the baselines."""
    last, unit, digits = run.last, run.unit, run.prop.error_decimals
    change = run.change.mae
    outcome = outcome_of(change) if len(run.rounds) > 1 else None
    n = len(last.tested)
    versus = _versus(run)
    no_better = MEDIAN in versus and outcome_of(-versus[MEDIAN]) != "better"
    verdict = {
        "better": "It got better, but isn't better than a constant."
        if no_better
        else "It learned.",
        "worse": "It got worse.",
        "same": "No change that this test set can tell from noise.",
        "few": "Too few test molecules for a verdict.",
        None: "One round so far: nothing to compare with yet.",
    }[outcome]
    sentences = []
    if outcome:
        ids = [{a.molecule_id for a in facts.tested} for facts in (run.rounds[0], last)]
        sentences.append(
            f"Test MAE {run.rounds[0].test_mae.value:.{digits}f} → "
            f"{last.test_mae.value:.{digits}f} {unit} from round {run.rounds[0].index} to round "
            f"{last.index}: {signed(change, digits)} {unit} (paired bootstrap, "
            f"{counted(len(ids[0] & ids[1]), 'molecule')})."
        )
    else:
        sentences.append(
            f"Test MAE {ranged(last.test_mae, digits)} {unit} on {counted(n, 'molecule')}."
        )
    if MEDIAN in versus:
        sentences.append(_against(versus[MEDIAN], "always answering the training median", run.prop))
    others = {name: mae for name, mae in run.baseline_maes(last).items() if name != MEDIAN}
    if others:
        best = min(others, key=lambda name: others[name].value)
        sentences.append(
            _against(
                versus[best],
                f"the best baseline with the same {last.num_labelled} labels ({best})",
                run.prop,
            )
        )
    if last.answered < 1:
        median = minus(run.prop.format(run.split.median))
        sentences.append(
            f"{last.answered:.1%} of the questions got a well-formed value; the others "
            f"are scored as the training median ({median} {unit}), never dropped."
        )
    if same := gathered(commonest_value(last.answers), run.config.test_answers, run.prop):
        sentences.append(same)
    kept_out = [str(facts.index) for facts in run.rounds if not facts.record.passed]
    if kept_out:
        sentences.append(
            f"Kept from answering by --gate, as worse than the one before: adapters of rounds "
            f"{', '.join(kept_out)}. The test set helped to choose, so the error of those that "
            "answered is a little too low."
        )
    if n < ENOUGH_FOR_A_VERDICT:
        sentences.append(
            f"{counted(n, 'test molecule')} can't tell a change from noise: below "
            f"{ENOUGH_FOR_A_VERDICT} intervals are too narrow; give a larger --test-size."
        )
    elif n < 1000:
        half = (last.test_mae.high - last.test_mae.low) / 2
        sentences.append(
            f"With {n} test molecules an MAE is known to about ±{half:.{digits}f} {unit}; a larger "
            "--test-size narrows that."
        )
    if outcome and outcome != "few":
        sentences.append(
            f"{ONE_TRAINING} `selfstudy-engine ablate --run {run.name} --only loop --repeats 4` "
            "trains the last one from three more seeds."
        )
    return Headline(
        outcome,
        verdict,
        sentences,
        [*columns_of(run.prop), "MAE minus the last round's"],
        _rows(run, versus),
    )


def _versus(run: RunFacts) -> dict[str, Interval]:
    """Return each baseline's MAE minus the model's in the last round, paired by molecule."""
    last = run.last
    own = errors_of(last.answers, "test", run.split.median)
    measured = np.array([answer.measured for answer in last.tested])
    return {
        name: measure_change(own, predicted - measured, 0.0).mae
        for name, predicted in last.baselines.items()
    }


def _against(difference: Interval, what: str, prop: Property) -> str:
    """Say where the model stands beside something else, given that one's MAE minus the model's."""
    mine = -difference
    word = {
        "better": "Better than",
        "worse": "Worse than",
        "same": "Not distinguishable from",
        "few": "Too few molecules to tell from",
    }[outcome_of(mine)]
    return f"{word} {what}: MAE {signed(mine, prop.error_decimals)} {prop.unit}."


def _rows(run: RunFacts, versus: dict[str, Interval]) -> list[Row]:
    last, prop = run.last, run.prop
    digits = prop.error_decimals
    rows = []
    if len(run.rounds) > 1:
        first = run.rounds[0]
        name = f"{run.base_model}, round {first.index}"
        back = ranged(-run.change.mae, digits, "+")
        rows.append(Row(name, cells_of(run.metrics(first), prop), back, True))
    rows.append(
        Row(f"{run.base_model}, round {last.index}", cells_of(run.metrics(last), prop), "", True)
    )
    for name, metrics in run.baseline_metrics(last).items():
        difference = ranged(versus[name], digits, "+")
        rows.append(Row(name, cells_of(metrics, prop), difference, False))
    return rows
