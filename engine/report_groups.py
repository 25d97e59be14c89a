"""Facts of a run in, the test error by groups of molecules out: by value, and by similarity."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import altair as alt
import numpy as np

from selfstudy_engine.data.evaluations import errors_of
from selfstudy_engine.data.features import similarities
from selfstudy_engine.data.metrics import bootstrap
from selfstudy_engine.engine.metric_texts import minus
from selfstudy_engine.engine.report_charts import (
    Figure,
    bars_with_intervals,
    coloured,
    figure,
    form_of_errors,
    interval_row,
    interval_tooltip,
    number,
    text,
)
from selfstudy_engine.engine.report_facts import RoundFacts, RunFacts

_SIMILARITIES = (0.0, 0.3, 0.4, 0.5, 0.7, 1.01)


def error_by_value(run: RunFacts) -> Figure:
    """Return the test error in quarters of the measured values, at first and at last."""
    measured = np.array([answer.measured for answer in run.last.tested])
    edges = np.unique(np.quantile(measured, [0, 0.25, 0.5, 0.75, 1]))
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
    trained = [molecule.smiles for molecule in run.trained]
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
    series = [f"round {facts.index}" for facts in run.first_and_last]
    rows = []
    for facts, series_name in zip(run.first_and_last, series, strict=True):
        errors = abs(errors_of(facts.answers, "test", run.split.median))
        # A row that was away for a while isn't in the rounds of that time.
        bands = np.array([groups.get(molecule_id, -1) for molecule_id in _ids(facts)])
        for index, name in enumerate(names):
            inside = errors[bands == index]
            if len(inside):
                more = {"group": name, "molecules": len(inside)}
                rows.append(interval_row(facts.index, series_name, bootstrap(inside), **more))
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
        subtitle=run.subtitle,
        columns=columns | {"low": "from", "high": "to"},
    )


def _ids(facts: RoundFacts) -> list[str]:
    return [answer.molecule_id for answer in facts.tested]
