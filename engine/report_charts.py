"""Rows in, Vega-Lite figures out: the parts that all charts of a report share.

Colours of text and axes are the page's own (`currentColor`), so that one chart serves light, dark
and paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from selfstudy_engine.data.metrics import Interval
from selfstudy_engine.data.properties import Property

Row = dict[str, Any]
TEST, TRAIN = "test", "trained on"
MODEL = "this model"
_COLOURS = {
    MODEL: "#3b7ddd",
    TEST: "#3b7ddd",
    TRAIN: "#e07b39",
    "training median": "#8a8a8a",
    "5 nearest neighbours": "#b279a2",
    "Joback groups, refitted": "#a0845c",
    "random forest": "#3f9b56",
    "gradient boosting + extra trees": "#1a9ba8",
}
PALETTE = ("#3b7ddd", "#e07b39", "#3f9b56", "#b279a2", "#1a9ba8", "#a0845c", "#c0504d", "#8a8a8a")
INK = "currentColor"
_HEIGHT = 300
_CONFIG: Row = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.12,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": INK,
        "titleColor": INK,
        "orient": "bottom",
        "direction": "vertical",
        "columns": {"expr": "width < 350 ? 1 : 2"},
        "labelLimit": 260,
        "labelFontSize": 12,
        "title": None,
    },
    "title": {
        "color": INK,
        "subtitleColor": INK,
        "anchor": "start",
        "fontSize": 13,
        "subtitleFontSize": 11,
    },
    "header": {"labelColor": INK, "titleColor": INK},
    "view": {"stroke": None},
    "text": {"color": INK},
    "rule": {"color": INK},
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with what stands beside it."""

    key: str
    """Its name in addresses and file names."""
    title: str
    alt: str
    """What it shows, for who can't see it."""
    caption: str
    spec: Row
    """Vega-Lite, its rows under `data`."""
    columns: dict[str, str]
    """Columns of the table view: field -> heading."""

    @property
    def rows(self) -> list[Row]:
        """The data behind the chart."""
        rows: list[Row] = self.spec["data"]["values"]
        return rows


def figure(
    key: str,
    title: str,
    chart: Any,
    rows: Sequence[Row],
    *,
    alt_text: str,
    caption: str,
    subtitle: Sequence[str],
    columns: dict[str, str],
    height: int = _HEIGHT,
    panels: bool = False,
) -> Figure:
    """Put a chart and its rows together, as wide as the page lets it be.

    Args:
        key: see `Figure`.
        title: see `Figure`.
        chart: Altair chart without data.
        rows: what it shows; strings among them are untrusted.
        alt_text: see `Figure`.
        caption: see `Figure`.
        subtitle: lines that say which model, labels and molecules: they go with each export.
        columns: see `Figure`.
        height: in pixels.
        panels: the chart is several side by side, each with a size of its own.
    """
    titled = chart.properties(title=alt.Title(title, subtitle=list(subtitle)))
    if not panels:
        titled = titled.properties(width="container", height=height)
    spec = _without_data(titled.to_dict())
    spec["data"] = {"values": list(rows)}
    spec["config"] = _CONFIG
    spec["autosize"] = {"type": "pad" if panels else "fit-x", "contains": "padding"}
    return Figure(key, title, alt_text, caption, spec, columns)


def _without_data(spec: Row) -> Row:
    """Return a copy whose layers have no data of their own: they share the figure's."""

    def stripped(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: stripped(value) for key, value in part.items() if key != "data"}
        return [stripped(item) for item in part] if isinstance(part, list) else part

    return {key: stripped(value) for key, value in spec.items() if key != "data"}


def rounds_axis() -> Any:
    """Return the x axis of rounds: whole numbers only."""
    whole = "datum.value % 1 == 0 ? datum.label : ''"  # few rounds get ticks between them
    axis = alt.Axis(format="d", labelExpr=whole, grid=False)
    return alt.X("round:Q", title="round", axis=axis, scale=alt.Scale(nice=False, padding=12))


def labels_axis() -> Any:
    """Return the x axis of labels used, logarithmic."""
    axis = alt.Axis(format="~s", grid=False, tickCount=6)
    scale = alt.Scale(type="log", nice=False, padding=12)
    return alt.X("labels:Q", title="labels used", scale=scale, axis=axis)


def interval_row(round_index: int, series: str, interval: Interval, **more: Any) -> Row:
    """Return a row for `lines_with_intervals` or `bars_with_intervals`."""
    return {
        "round": round_index,
        "series": series,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        **more,
    }


def series_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of the series, each once, in the rows' order."""
    return list(dict.fromkeys(row["series"] for row in rows))


def coloured(field: str, names: Sequence[str]) -> Any:
    """Return the colour of a series by its name; a name without one gets the next of a palette."""
    colours = [
        _COLOURS.get(name, PALETTE[index % len(PALETTE)]) for index, name in enumerate(names)
    ]
    scale = alt.Scale(domain=list(names), range=colours)
    return alt.Color(f"{field}:N", scale=scale, legend=alt.Legend(title=None))


def lines_with_intervals(
    x: Any, y_title: str, colour: Any, tooltip: Sequence[Any], form: str = "~f"
) -> Any:
    """Return `plain_lines` with an error bar where a row has `low` and `high`."""
    bars = (
        alt.Chart()
        .mark_rule(strokeWidth=1.5, opacity=0.7)
        .encode(x=x, color=colour, y=alt.Y("low:Q", title=y_title), y2="high:Q")
        .transform_filter("isValid(datum.low)")
    )
    return alt.layer(bars, *plain_lines(x, y_title, colour, tooltip, form).layer)


def plain_lines(x: Any, y_title: str, colour: Any, tooltip: Sequence[Any], form: str = "~f") -> Any:
    """Return lines with points.

    Args:
        x: axis.
        y_title: of the other one, which shows `value`.
        colour: of the series.
        tooltip: what a point says.
        form: of the numbers at the axis.
    """
    axis = alt.Axis(format=form)
    y = alt.Y("value:Q", title=y_title, axis=axis, scale=alt.Scale(zero=False))
    base = alt.Chart().encode(x=x, color=colour)
    lines = base.mark_line(strokeWidth=1.5).encode(y=y)
    points = base.mark_point(filled=True, size=55, opacity=1).encode(y=y, tooltip=list(tooltip))
    return alt.layer(lines, points)


def bars_with_intervals(
    x: Any, y_title: str, colour: Any, tooltip: Sequence[Any], series: Sequence[str]
) -> Any:
    """Return bars with error bars, in each group one for each series."""
    offset = alt.XOffset("series:N", sort=None, scale=alt.Scale(domain=list(series)))
    base = alt.Chart().encode(x=x, xOffset=offset, color=colour)
    y = alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=True))
    bars = base.mark_bar(opacity=0.75).encode(y=y, tooltip=list(tooltip))
    rules = base.mark_rule(color=INK, strokeWidth=1.5).encode(
        y=alt.Y("low:Q", title=y_title), y2="high:Q", color=alt.value(INK)
    )
    return alt.layer(bars, rules)


def form_of_errors(prop: Property) -> str:
    """Return the format of errors, for charts as for Python."""
    return f".{prop.error_decimals}f"


def interval_tooltip(title: str, form: str) -> list[Any]:
    """Return the tooltip of a value with its interval."""
    parts = (("value", title), ("low", "95% from"), ("high", "to"))
    return [number(field, shown, form) for field, shown in parts]


def number(field: str, title: str, form: str) -> Any:
    """Return a tooltip of a number."""
    return alt.Tooltip(f"{field}:Q", title=title, format=form)


def text(field: str, title: str) -> Any:
    """Return a tooltip of a text."""
    return alt.Tooltip(f"{field}:N", title=title)
