"""Figures and texts in, one HTML file out that needs nothing but itself.

Names, SMILES and reasons are untrusted: the template escapes every text, data for the charts is
JSON without a "<", pictures are images, and the page's own policy lets no other script and no
network request through.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.engine.metric_texts import minus
from selfstudy_engine.engine.report_charts import Figure

_IN_ALL = b'<script type="application/json" id="figures">'


def render_page(template: str, *, title: str, figures: Sequence[Figure], **values: Any) -> bytes:
    """Return a page as UTF-8.

    Args:
        template: file name of the template.
        title: of the page.
        figures: what `figure(key)` in the template may show.
        values: what else the template uses.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = minus
    environment.filters["interval_whole"] = _interval_whole
    scripts = [_bundle(), _text("report_page.js")]
    content = [
        {"key": figure.key, "spec": figure.spec, "columns": figure.columns} for figure in figures
    ]
    page = environment.get_template(template).render(
        title=title,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        figures={figure.key: figure for figure in figures},
        style=Markup(_text("report_page.css")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        data=Markup(_json(content)),
        **values,
    )
    return page.encode("utf-8", errors="replace")  # a lone surrogate can't be written


def check_replaceable(path: Path) -> None:
    """Refuse to write a page where something else is.

    Raises:
        UsageError: a file is there that is no page of ours.
    """
    if path.exists() and _IN_ALL not in path.read_bytes():
        raise UsageError(f"{path} exists and is no report; name another file with --out")


def _interval_whole(cell: str) -> Markup:
    """Put the interval of an estimate into an element of its own."""
    value, bracket, interval = cell.partition("[")
    return Markup("{}<span>{}</span>").format(value, bracket + interval)


@lru_cache
def _text(name: str) -> str:
    return resources.files("selfstudy_engine.engine").joinpath(name).read_text("utf-8")


@lru_cache(maxsize=1)
def _bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, as vl-convert carries them."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Sequence[str]) -> str:
    """Return a Content-Security-Policy: these scripts by their hash, nothing from elsewhere."""
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    allowed = " ".join(f"'sha256-{found}'" for found in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(content: Any) -> str:
    """Return JSON that can stand inside a script element, whatever its texts hold."""
    text = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY).decode("utf-8")
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
