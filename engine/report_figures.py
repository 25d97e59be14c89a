"""Facts of a run in, its figures out: errors over rounds and labels, predicted against measured."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np

from selfstudy_engine.data.features import similarities
from selfstudy_engine.data.metrics import Floats, Interval, bootstrap
from selfstudy_engine.data.properties import Property
from selfstudy_engine.engine.metric_texts import minus
from selfstudy_engine.engine.report_charts import (
    INK,
    MODEL,
    TEST,
    TRAIN,
    Figure,
    Row,
    bars_with_intervals,
    coloured,
    figure,
    form_of_errors,
    interval_tooltip,
    lines_with_intervals,
    number,
    plain_lines,
    rounds_axis,
    text,
)
from selfstudy_engine.engine.report_facts import RoundFacts, RunFacts

MAX_POINTS = 20_000
"""Points of the parity plot: beyond that some rounds are left out, and the caption says so."""
_ORIGINAL_AXES = (-200.0, 400.0)
"""Of the original's parity plot, of melting points in °C."""
_PANEL = 240
_SIMILARITIES = (0.0, 0.3, 0.4, 0.5, 0.7, 1.01)


def subtitle_of(run: RunFacts) -> list[str]:
    """Return which model, labels and molecules a run's figures speak of."""
    last = run.last
    return [
        f"{run.base_model}, run {run.name}",
        f"{len(last.labelled)} labels, {last.test.num_molecules} test molecules",
    ]


def _at(round_index: int, series: str, interval: Interval, **more: Any) -> Row:
    return {
        "round": round_index,
        "series": series,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        **more,
    }


def learning_by_round(run: RunFacts) -> Figure:
    """Return the error on test and trained-on molecules over the rounds: the original's plot."""
    rows = []
    for facts in run.rounds:
        rows.append(_at(facts.index, TEST, facts.test.mae))
        if facts.train:
            rows.append(_at(facts.index, TRAIN, facts.train.mae))
        for name, metrics in run.baseline_metrics(facts).items():
            rows.append(_at(facts.index, name, metrics.mae) | {"low": None, "high": None})
    title, form = f"MAE, {run.unit}", form_of_errors(run.prop)
    colour = coloured("series", _series(rows))
    tooltip = [text("series", "series"), number("round", "round", "d")]
    tooltip += interval_tooltip(title, form)
    first, last = run.rounds[0].test.mae, run.last.test.mae
    return figure(
        "learning",
        "Error by round",
        lines_with_intervals(rounds_axis(), title, colour, tooltip),
        rows,
        alt_text=f"Mean absolute error by round: on the test set {first.value:{form}} {run.unit} "
        f"in round {run.rounds[0].index} and {last.value:{form}} in round {run.last.index}, beside "
        "that on molecules that were trained on and that of each baseline.",
        caption="Bars are bootstrap 95% intervals. Trained-on molecules had an answer near their "
        f"value: their error is small for that alone{_constant_on_trained(run)}. Baselines were "
        "fitted to the same labels, at rounds 0, 1, 2, 4, 8, ... and the last; the training median "
        "is the whole pool's.",
        subtitle=subtitle_of(run),
        columns={"series": "series", "round": "round", "value": title, "low": "from", "high": "to"},
    )


def _constant_on_trained(run: RunFacts) -> str:
    """Say what a guess gets that knows nothing but which molecules were chosen."""
    values = [answer.measured for answer in run.last.answers if answer.split == "train"]
    if not values:
        return ""
    best = float(np.mean(abs(np.array(values) - np.median(values))))
    return (
        f", and the best constant gets {best:.{run.prop.error_decimals}f} {run.unit} on those of "
        f"round {run.last.index}; only far below that it may be memorising"
    )


def learning_by_labels(run: RunFacts) -> Figure:
    """Return the test error against the number of labels used, beside the baselines'."""
    rows = []
    for facts in run.rounds:
        labels = len(facts.labelled)
        rows.append(_at(facts.index, MODEL, facts.test.mae, labels=labels))
        for name, metrics in run.baseline_metrics(facts).items():
            rows.append(_at(facts.index, name, metrics.mae, labels=labels))
    title = f"test MAE, {run.unit}"
    x = alt.X(
        "labels:Q",
        title="labels used",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(format="~s", grid=False, tickCount=6),
    )
    tooltip = [text("series", "method"), number("labels", "labels", "d")]
    tooltip += interval_tooltip(title, form_of_errors(run.prop))
    return figure(
        "labels",
        "Error by labels used",
        lines_with_intervals(x, title, coloured("series", _series(rows)), tooltip),
        rows,
        alt_text="Test error against the number of labels, for the model and for each baseline "
        "that was fitted to the same labels.",
        caption="A label counts as used once its molecule was asked about, accepted or not, or is "
        "an exemplar's. All methods got the same labels and the same test set; the training median "
        "alone is the whole pool's.",
        subtitle=subtitle_of(run),
        columns={
            "series": "method",
            "labels": "labels",
            "value": title,
            "low": "from",
            "high": "to",
        },
    )


def parity(run: RunFacts) -> Figure:
    """Return predicted against measured, for the round that the page's slider shows."""
    rounds = _thinned(run.rounds, MAX_POINTS // max(1, len(run.rounds[0].answers)))
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
    scale, form = _axes(run), form_of_errors(run.prop)
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
        subtitle=subtitle_of(run),
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


def original_error(run: RunFacts) -> Figure:
    """Return the original article's first plot: error by round on test and trained-on molecules."""
    rows = [
        {"round": facts.index, "series": series, "value": metrics.mae.value}
        for facts in run.rounds
        for series, metrics in ((TEST, facts.test), (TRAIN, facts.train))
        if metrics
    ]
    return error_by_round(
        rows, "original-error", "Error by round, as in the original", run.prop, subtitle_of(run)
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
    shown = run.rounds[:1] + ([run.last] if len(run.rounds) > 1 else [])
    rows = [
        {
            "panel": f"round {facts.index}",
            "split": TEST if answer.split == "test" else TRAIN,
            "name": answer.name or answer.smiles,
            "measured": answer.measured,
            "predicted": answer.predicted,
        }
        for facts in shown
        for answer in facts.answers
        if answer.predicted is not None
    ]
    is_originals = (run.prop.name, run.unit) == ("melting point", "°C")
    scale = _between(*_ORIGINAL_AXES) if is_originals else _axes(run)
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
        subtitle=subtitle_of(run),
        columns={
            "panel": "round",
            "split": "molecule is",
            "name": "molecule",
            "measured": "measured",
            "predicted": "predicted",
        },
        panels=True,
    )


def error_by_value(run: RunFacts) -> Figure:
    """Return the test error in quarters of the measured values, at first and at last."""
    measured = np.array([answer.measured for answer in run.last.tested])
    edges = np.quantile(measured, [0, 0.25, 0.5, 0.75, 1])
    edges = np.unique(edges)
    bands = np.clip(np.searchsorted(edges, measured, side="right") - 1, 0, max(0, len(edges) - 2))
    shown = [minus(run.prop.format(edge)) for edge in edges]
    names = [f"{low} to {high}" for low, high in pairwise(shown)] or shown
    return _by_group(
        run,
        "value",
        f"Error by measured {run.prop.name}",
        groups=dict(zip(_ids(run.last), bands.tolist(), strict=True)),
        names=names,
        x=f"measured, {run.unit}",
        caption="A quarter of the test molecules in each band. A model that says the middle for "
        "everything is good in the middle bands alone.",
    )


def error_by_similarity(run: RunFacts) -> Figure:
    """Return the test error by how similar the nearest trained-on molecule is."""
    tested = [answer.smiles for answer in run.last.tested]
    trained = [molecule.smiles for molecule in run.last.trained]
    nearest = similarities(tested, trained).max(axis=1)
    bands = np.searchsorted(_SIMILARITIES, nearest, side="right") - 1
    edges = pairwise(_SIMILARITIES)
    names = [f"{low:g} to {min(high, 1):g}" for low, high in edges]
    return _by_group(
        run,
        "similarity",
        "Error by similarity to training molecules",
        groups=dict(zip(_ids(run.last), bands.tolist(), strict=True)),
        names=names,
        x="similarity to the nearest one (Tanimoto)",
        caption="A model that has learned more than its examples is also better far from them.",
    )


def _by_group(
    run: RunFacts,
    key: str,
    title: str,
    *,
    groups: Mapping[str, int],
    names: Sequence[str],
    x: str,
    caption: str,
) -> Figure:
    shown = run.rounds[:1] + ([run.last] if len(run.rounds) > 1 else [])
    series = [f"round {facts.index}" for facts in shown]
    rows = []
    for facts in shown:
        errors = abs(_errors(facts, run.split.median))
        # A row that was away for a while isn't in the rounds of that time.
        bands = np.array([groups.get(molecule_id, -1) for molecule_id in _ids(facts)])
        for index, name in enumerate(names):
            inside = errors[bands == index]
            if len(inside):
                row = _at(facts.index, f"round {facts.index}", bootstrap(inside), group=name)
                rows.append(row | {"molecules": len(inside)})
    y, form = f"test MAE, {run.unit}", form_of_errors(run.prop)
    order = [name for name in names if any(row["group"] == name for row in rows)]
    tooltip = [text("series", "round"), text("group", x), *interval_tooltip(y, form)]
    tooltip += [number("molecules", "n", "d")]
    narrow = "width < 330"  # a phone: names would lie over each other
    axis = alt.Axis(
        labelAngle=alt.ExprRef(f"{narrow} ? -35 : 0"),
        labelAlign=alt.ExprRef(f"{narrow} ? 'right' : 'center'"),
    )
    chart = bars_with_intervals(
        alt.X("group:N", title=x, sort=None, axis=axis, scale=alt.Scale(domain=order)),
        y,
        coloured("series", series),
        tooltip,
        series,
    )
    columns = {"series": "round", "group": x, "molecules": "molecules", "value": y}
    return figure(
        key,
        title,
        chart,
        rows,
        alt_text=f"{title}: "
        + "; ".join(
            f"{row['series']}, {row['group']}: {row['value']:{form}} {run.unit}" for row in rows
        ),
        caption=caption + " Lines are bootstrap 95% intervals.",
        subtitle=subtitle_of(run),
        columns=columns | {"low": "from", "high": "to"},
    )


def _ids(facts: RoundFacts) -> list[str]:
    return [answer.molecule_id for answer in facts.tested]


def _errors(facts: RoundFacts, fallback: float) -> Floats:
    return np.array(
        [
            (fallback if answer.predicted is None else answer.predicted) - answer.measured
            for answer in facts.tested
        ]
    )


def _axes(run: RunFacts) -> Any:
    """Return the scale of a parity plot: the measured values, with a tolerance to spare."""
    values = [answer.measured for facts in run.rounds for answer in facts.answers]
    return _between(min(values) - run.prop.tolerance, max(values) + run.prop.tolerance)


def _between(low: float, high: float) -> Any:
    return alt.Scale(domain=[low, high], nice=False, clamp=True)


def _thinned(rounds: Sequence[RoundFacts], limit: int) -> list[RoundFacts]:
    """Return the first, the last, and evenly spaced rounds between, `limit` at most."""
    if len(rounds) <= max(2, limit):
        return list(rounds)
    places = np.linspace(0, len(rounds) - 1, max(2, limit)).round().astype(int)
    return [rounds[index] for index in sorted(set(places.tolist()))]


def _series(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["series"] for row in rows))
