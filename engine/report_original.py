"""The original article's two plots, of a run here or of rounds that another program measured."""

from collections.abc import Sequence

import altair as alt

from selfstudy_engine.data.properties import Property
from selfstudy_engine.engine.report_charts import (
    INK,
    TEST,
    TRAIN,
    Figure,
    Row,
    coloured,
    figure,
    form_of_errors,
    number,
    plain_lines,
    rounds_axis,
    text,
)
from selfstudy_engine.engine.report_facts import RunFacts
from selfstudy_engine.engine.report_parity import parity_scale, scale_between

_AXES = (-200.0, 400.0)
"""Of its parity plot, of melting points in °C."""
_PANEL = 200


def original_error(run: RunFacts) -> Figure:
    """Return the original article's first plot: error by round on test and trained-on molecules."""
    rows = [
        {"round": facts.index, "series": series, "value": mae.value}
        for facts in run.rounds
        for series, mae in ((TEST, facts.test_mae), (TRAIN, facts.train_mae))
        if mae
    ]
    return error_by_round(
        rows, "original-error", "Error by round, as in the original", run.prop, run.subtitle
    )


def error_by_round(
    rows: Sequence[Row], key: str, title: str, prop: Property, subtitle: Sequence[str]
) -> Figure:
    """Draw the original article's first plot.

    Args:
        rows: with round, series ("test" or "trained on") and value.
        key: of the figure.
        title: of the figure.
        prop: what is predicted.
        subtitle: see `figure`.
    """
    y = f"MAE, {prop.unit}"
    tooltip = [text("series", "molecules"), number("round", "round", "d")]
    tooltip += [number("value", y, form_of_errors(prop))]
    return figure(
        key,
        title,
        plain_lines(rounds_axis(), y, coloured("series", [TEST, TRAIN]), tooltip),
        rows,
        alt_text=f"{title}: mean absolute error on test and on trained-on molecules by round.",
        caption="The original article's first plot; it showed no intervals.",
        subtitle=subtitle,
        columns={"series": "molecules", "round": "round", "value": y},
    )


def original_parity(run: RunFacts) -> Figure:
    """Return the original article's second plot: predicted against measured, first and late."""
    rows = [
        {
            "panel": f"round {facts.index}",
            "split": TEST if answer.split == "test" else TRAIN,
            "name": answer.name or answer.smiles,
            "measured": answer.measured,
            "predicted": answer.predicted,
        }
        for facts in run.first_and_last
        for answer in facts.answers
        if answer.predicted is not None
    ]
    is_originals = (run.prop.name, run.unit) == ("melting point", "°C")
    scale = scale_between(*_AXES) if is_originals else parity_scale(run)
    x = alt.X("measured:Q", title=f"measured, {run.unit}", scale=scale)
    y = alt.Y("predicted:Q", title=f"predicted, {run.unit}", scale=scale)
    points = (
        alt.Chart()
        .mark_point(size=22, opacity=0.65, filled=True)
        .encode(x=x, y=y, color=coloured("split", [TEST, TRAIN]))
    )
    line = (
        alt.Chart()
        .mark_line(strokeDash=[5, 4], color=INK, opacity=0.6)
        .encode(x=x, y=alt.Y("measured:Q", title=f"predicted, {run.unit}"))
    )
    header = alt.Header(title=None, labelColor=INK)
    panels = (
        alt.layer(line, points, data=alt.Data(name="rows"))
        .properties(width=_PANEL, height=_PANEL)
        .facet(column=alt.Column("panel:N", header=header))
    )
    return figure(
        "original-parity",
        "Predicted against measured, as in the original",
        panels,
        rows,
        alt_text=f"Predicted against measured {run.prop.name} in the first and the last round, "
        "side by side.",
        caption=f"The original article's second plot{', with its axes' if is_originals else ''}; "
        "as there, unanswered questions are left out of this one.",
        subtitle=run.subtitle,
        columns={
            "panel": "round",
            "split": "molecule is",
            "name": "molecule",
            "measured": "measured",
            "predicted": "predicted",
        },
        panels=True,
    )
