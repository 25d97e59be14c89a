"""A benchmark's one picture: output tokens per second of each contender, and what a loop gets."""

from pathlib import Path
from typing import Any

from selfstudy_engine.data.embedded import model_label
from selfstudy_engine.engine.bench_results import Results

_PANELS = (
    ("fixed", "output_tokens_per_second", "Output tokens/s, fixed length"),
    ("real", "completions_per_second", "Completions/s, the loop's own prompts"),
)
_WIDTH, _ROW = 330, 26


def save_chart(results: Results, path: Path) -> None:
    """Write the chart as `path`.svg and `path`.png: bars are medians, lines the turns' range.

    Both panels have logarithmic axes: the slowest and the fastest lie a hundredfold apart.
    """
    import altair as alt

    content = results.to_json()
    panels = []
    for workload, rate, title in _PANELS:
        rows = _rows(content, workload, rate)
        if not rows:
            continue
        order = [row["contender"] for row in rows]
        base = alt.Chart(alt.Data(values=rows)).encode(
            y=alt.Y("contender:N", sort=order, title=None, axis=alt.Axis(labelLimit=300))
        )
        lowest = min(row["low"] for row in rows) / 2
        highest = max(row["high"] for row in rows) * 2  # room for the number behind the bar
        scale = alt.Scale(type="log", domain=[lowest, highest], nice=False)
        bars = base.mark_bar(color="#4c78a8").encode(
            x=alt.X("median:Q", scale=scale, title=title), x2=alt.datum(lowest)
        )
        ranges = base.mark_rule(color="#222222").encode(x="low:Q", x2="high:Q")
        texts = base.mark_text(align="left", dx=6).encode(x="high:Q", text="shown:N")
        panels.append(
            alt.layer(bars, ranges, texts).properties(width=_WIDTH, height=_ROW * len(rows))
        )
    host = content["host"]
    model = model_label(results.config.model)
    title = alt.Title(
        "selfstudy-engine bench",
        subtitle=f"{model}, {host['processor']}, {host['num_cpus']} CPUs, medians",
    )
    chart = alt.hconcat(*panels, title=title)
    chart.save(path.with_suffix(".svg"))
    chart.save(path.with_suffix(".png"), scale_factor=2)


def _rows(content: dict[str, Any], workload: str, rate: str) -> list[dict[str, Any]]:
    rows = []
    for key, facts in content["contenders"].items():
        found = facts["workloads"].get(workload)
        if found:
            summary = {name: found[rate][name] for name in ("median", "low", "high")}
            shown = f"{summary['median']:.3g}"
            rows.append({"contender": f"{key}  {facts['label']}", "shown": shown, **summary})
    return rows
