"""The report's page: whatever names and reasons say, its tags are those of a harmless run."""

from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import orjson
from fuzzing import NASTY_TEXTS, fuzz, texts
from hypothesis import strategies as st

from selfstudy_engine.data.properties import find_property
from selfstudy_engine.engine.reason_quality import mark_claims
from selfstudy_engine.engine.report_charts import Figure
from selfstudy_engine.engine.report_examples import Example, Suspect, draw
from selfstudy_engine.engine.report_headline import Headline, Row
from selfstudy_engine.engine.report_page import render_page

FIGURES = (
    *("learning", "labels", "parity", "value", "similarity", "acceptance", "molecules"),
    *("reasons", "time", "original-error", "original-parity"),
)
_SCRIPT_STARTS = ("<script>", "<style>")


class Outline(HTMLParser):
    """Tags with the names of their attributes, and what is written where somebody reads it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.data = ""
        self.texts: list[str] = []
        self._in: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self._in.append(tag)
        if tag == "script" and ("id", "figures") in attrs:
            self._in[-1] = "figures"

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", ()))
        if self._in:
            self._in.pop()

    def handle_data(self, data: str) -> None:
        if self._in[-1:] == ["figures"]:
            self.data += data
        elif self._in[-1:] == ["h3"]:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", ()))

    def handle_decl(self, decl: str) -> None:
        self.tags.append(("declaration", ()))

    def unknown_decl(self, data: str) -> None:
        self.tags.append(("declaration", ()))

    def handle_pi(self, data: str) -> None:
        self.tags.append(("instruction", ()))


def page_of(text: str) -> tuple[Outline, Any]:
    """Return the outline of a page that says a text wherever a run can, and its charts' data."""
    claims: list[Any] = [SimpleNamespace(start=0, end=3, truth="false", found=text)]
    pieces = mark_claims(f"{text} and all", claims)
    shown = text or "none"
    example = Example("best", shown, shown, draw(text), 1.0, 2.0, None, pieces, shown)
    suspect = Suspect(shown, shown, draw(text), 1.0, 2.0, 3.0, 4.0)
    figures = [Figure(key, text, text, text, {"title": text}, {"a": text}) for key in FIGURES]
    prop = find_property("melting_point").model_copy(update={"name": text, "unit": text})
    config = SimpleNamespace(rounds=3, property=prop)
    last = SimpleNamespace(num_labelled=0, index=3, tested=[])
    page = render_page(
        "report_run.html.jinja",
        title=text,
        figures=figures,
        run=SimpleNamespace(
            base_model=text, last=last, config=config, table_changed=True, unit=text, prop=prop
        ),
        headline=Headline("better", text, [text], [text], [Row(text, [text], text, True)]),
        parity_rounds=[{"round": 1, "text": text}],
        examples=[example],
        kinds=[text],
        suspects=[suspect],
        command=text,
        behind=[(text, text)],
        toml=text,
    )
    outline = Outline()
    outline.feed(page.decode("utf-8"))
    outline.close()
    return outline, orjson.loads(outline.data)


HARMLESS = page_of("CCO")
UNDRAWN = page_of("ethanol")
hostile = st.one_of(
    texts,
    st.lists(
        st.sampled_from(
            [
                "<",
                ">",
                "&",
                '"',
                "'",
                "/",
                "!--",
                "-->",
                "]]>",
                "<![CDATA[",
                "<?",
                "script",
                "svg",
                " onload=",
                "=",
                "&lt",
                "&#60;",
                "\\u003c",
                "</title>",
                "</pre>",
                "</style>",
                "{{",
                "}}",
                "{%",
                "%}",
                "javascript:",
                "`",
            ]
        )
        | st.sampled_from(NASTY_TEXTS)
        | st.text(max_size=4),
        max_size=12,
    ).map("".join),
)


@fuzz(4, short=12, text=hostile)
def test_no_text_becomes_a_tag(text: str) -> None:
    outline, data = page_of(text)
    expected, _ = HARMLESS if draw(text) else UNDRAWN
    assert outline.tags == expected.tags
    written = text.encode("utf-8", "replace").decode("utf-8")
    assert [figure["columns"]["a"] for figure in data] == [written] * len(FIGURES)
