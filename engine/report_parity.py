"""Facts of a run in, predicted against measured out."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from selfstudy_engine.engine.report_charts import (
    INK,
    TEST,
    TRAIN,
    Figure,
    coloured,
    figure,
    form_of_errors,
    number,
    text,
)
from selfstudy_engine.engine.report_facts import RoundFacts, RunFacts

MAX_POINTS = 20_000
"""Points of the plot: beyond that some rounds are left out, and the caption says so."""


def parity(run: RunFacts) -> Figure:
    """Return predicted against measured, for the round that the page's slider shows."""
    most = max(len(facts.answers) for facts in run.rounds)  # round 0 has trained on none
    rounds = _thinned(run.rounds, MAX_POINTS // most)
    rows = [
        {
            "round": facts.index,
            "split": TEST if answer.split == "test" else TRAIN,
            "name": answer.name or answer.smiles,
            "measured": answer.measured,
            "predicted": round(
                run.split.median if answer.predicted is None else answer.predicted,
                run.prop.decimals + 2,
            ),
            "answered": "yes" if answer.predicted is not None else "no: the training median",
        }
        for facts in rounds
        for answer in facts.answers
    ]
    scale, form = parity_scale(run), form_of_errors(run.prop)
    param = alt.param(name="shown_round", value=rounds[-1].index)
    x, y = (
        alt.X("measured:Q", title=f"measured, {run.unit}", scale=scale),
        alt.Y("predicted:Q", title=f"predicted, {run.unit}", scale=scale),
    )
    points = (
        alt.Chart()
        .mark_point(size=34, opacity=0.65, filled=True, clip=True)
        .encode(
            x=x,
            y=y,
            color=coloured("split", [TEST, TRAIN]),
            shape=alt.Shape("split:N", scale=alt.Scale(domain=[TEST, TRAIN])),
            tooltip=[
                text("name", "molecule"),
                number("measured", "measured", form),
                number("predicted", "predicted", form),
                text("answered", "answered"),
            ],
        )
        .transform_filter("datum.round == shown_round")
    )
    line = (
        alt.Chart()
        .mark_line(strokeDash=[5, 4], color=INK, opacity=0.6)
        .encode(x=x, y=alt.Y("measured:Q", title=f"predicted, {run.unit}", scale=scale))
        .transform_filter("datum.round == shown_round")
    )
    left_out = len(run.rounds) - len(rounds)
    return figure(
        "parity",
        "Predicted against measured",
        alt.layer(line, points).add_params(param),
        rows,
        alt_text=f"Predicted against measured {run.prop.name} for one round at a time; "
        f"the slider chooses the round. Points on the dashed line are exact.",
        caption="Axes are the same in all rounds; predictions beyond them stand at the edge. "
        "Unanswered questions stand at the training median."
        + (f" {left_out} rounds are left out to keep the file small." if left_out else ""),
        subtitle=run.subtitle,
        columns={
            "round": "round",
            "split": "molecule is",
            "name": "molecule",
            "measured": f"measured, {run.unit}",
            "predicted": f"predicted, {run.unit}",
            "answered": "answered",
        },
        height=420,
    )


def parity_scale(run: RunFacts) -> Any:
    """Return the scale of a parity plot: the measured values, with a tolerance to spare."""
    values = [answer.measured for facts in run.rounds for answer in facts.answers]
    return scale_between(min(values) - run.prop.tolerance, max(values) + run.prop.tolerance)


def scale_between(low: float, high: float) -> Any:
    """Return a scale that stays, and holds at its ends what lies beyond them."""
    return alt.Scale(domain=[low, high], nice=False, clamp=True)


def _thinned(rounds: Sequence[RoundFacts], limit: int) -> list[RoundFacts]:
    """Return the first, the last, and evenly spaced rounds between, `limit` at most."""
    if len(rounds) <= max(2, limit):
        return list(rounds)
    places = np.linspace(0, len(rounds) - 1, max(2, limit)).round().astype(int)
    return [rounds[index] for index in sorted(set(places.tolist()))]
