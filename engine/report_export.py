"""Figures in, SVG and PNG files for papers out: black on white, with their titles."""

from collections.abc import Sequence
from pathlib import Path

from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.engine.report_charts import INK, Figure, Row

_WIDTH = 480
_SCALE = 3
"""Pixels of a PNG for each of the figure's."""
_FONT = "Liberation Sans, Arial, sans-serif"


def export_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write each figure as KEY.svg and KEY.png; the parity plot once for each round.

    Returns:
        The paths of the SVG files.
    """
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, spec in _variants(figures):
        printed = _black(spec)
        printed["config"] |= {"background": "white", "font": _FONT}
        if printed.get("width") == "container":
            printed |= {"width": _WIDTH, "autosize": {"type": "fit", "contains": "padding"}}
        svg = vl_convert.vegalite_to_svg(printed, allowed_base_urls=[])
        png = vl_convert.vegalite_to_png(printed, scale=_SCALE, allowed_base_urls=[])
        write_atomic(folder / f"{name}.svg", svg.encode())
        write_atomic(folder / f"{name}.png", png)
        paths.append(folder / f"{name}.svg")
    return paths


def _variants(figures: Sequence[Figure]) -> list[tuple[str, Row]]:
    found = []
    for figure in figures:
        if figure.key != "parity":
            found.append((figure.key, figure.spec))
            continue
        for index in sorted({row["round"] for row in figure.rows}):
            params = [{**param, "value": index} for param in figure.spec["params"]]
            title = {**figure.spec["title"], "text": f"{figure.title}, round {index}"}
            found.append(
                (f"parity-round-{index:04d}", {**figure.spec, "params": params, "title": title})
            )
    return found


def _black(spec: Row) -> Row:
    """Return a copy that is drawn in black where the page would use its own colour."""

    def changed(part: object) -> object:
        if isinstance(part, dict):
            return {key: changed(value) for key, value in part.items() if key != "data"}
        if isinstance(part, list):
            return [changed(item) for item in part]
        return "black" if part == INK else part

    copy = changed(spec)
    assert isinstance(copy, dict)
    return {**copy, "data": spec["data"]}
