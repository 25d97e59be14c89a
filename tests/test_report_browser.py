"""The report in a real browser: no error, no request, charts drawn, slider and filters at work."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chromium import Page, find_chromium
from made_run import make_run, write_table

from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.report import write_report
from selfstudy_engine.engine.report_compare import write_comparison
from selfstudy_engine.engine.rounds import Timing, load_records, save_record

BROWSER = find_chromium()
TIMES = (1230.2, 0.05000004, 12345.6, 99.996, 1 / 3)
"""Of round 0: train, swap, evaluate, generate, wait."""
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium here: `apt-get install chromium`, or name it in CHROMIUM"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        folder = make_run(root / "runs", write_table(root / "table.csv"))
        [first, *_] = load_records(folder)
        save_record(folder, replace(first, timing=Timing(*TIMES)))
        write_report(folder, folder.report)
        write_comparison([folder, folder], root / "compare.html")
    return folder


@pytest.fixture(scope="module")
def page(made: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BROWSER
    with Page(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        page.open(made.report)
        yield page


def local(page: Page) -> bool:
    return all(
        address.startswith(("file:", "data:", "about:", "blob:")) for address in page.requests
    )


def test_nothing_goes_wrong_and_nothing_leaves(page: Page) -> None:
    assert page.problems == []
    assert [url for url in page.requests if url.startswith("file:")][1:] == []
    assert local(page)


def test_hostile_names_and_reasons_are_shown_as_text(page: Page) -> None:
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.body.textContent.includes('onerror=')")
    assert page.evaluate("document.querySelectorAll('img[src=x], .example b b').length") == 0


def test_the_policy_stops_what_is_not_the_pages(page: Page) -> None:
    injected = """(() => {
        const script = document.createElement("script");
        script.textContent = "window.hacked = 3";
        document.body.append(script);
        return window.hacked === undefined;
    })()"""
    assert page.evaluate(injected)
    fetched = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'stopped')"
    assert page.evaluate(fetched) == "stopped"
    page.problems.clear()  # it complained about both


def test_every_chart_is_drawn(page: Page) -> None:
    empty = """[...document.querySelectorAll("[data-figure]")].filter(figure =>
        figure.querySelectorAll("svg.marks .mark-symbol path, svg.marks .mark-rect path").length < 2
    ).map(figure => figure.dataset.figure)"""
    assert page.evaluate(empty) == []
    assert page.evaluate("document.querySelectorAll('[data-figure] svg.marks').length") == 11
    labels = "[...document.querySelectorAll('.chart')].every(c => c.getAttribute('aria-label'))"
    assert page.evaluate(labels)


def test_nothing_is_cut_off_on_a_screen(page: Page) -> None:
    scrolled = """[...document.querySelectorAll(".scroll")]
        .filter(part => part.scrollWidth > part.clientWidth)
        .map(part => part.textContent.slice(0, 80))"""
    assert page.evaluate(scrolled) == []
    cut = """[...document.querySelectorAll("svg.marks text")].filter(text =>
        text.getBoundingClientRect().right > text.ownerSVGElement.getBoundingClientRect().right + 1
    ).map(text => text.textContent)"""
    assert page.evaluate(cut) == []


def test_axes_end_where_values_can(page: Page) -> None:
    def labels(key: str) -> list[str]:
        texts = f"[...document.querySelectorAll('[data-figure={key}] .mark-text text')]"
        found: list[str] = page.evaluate(f"{texts}.map(text => text.textContent)")
        return found

    assert "20" in labels("learning")
    assert not [text for text in labels("learning") if text.startswith("\N{MINUS SIGN}")]
    for key in ("acceptance", "reasons"):
        assert "100%" in labels(key)
        assert "110%" not in labels(key)


def test_the_slider_changes_the_round(page: Page) -> None:
    points = "document.querySelector('[data-figure=parity] svg g.mark-symbol').innerHTML"
    text = "document.getElementById('round-shown').value"
    last = page.evaluate(points)
    assert page.evaluate(text).startswith("round 3:")
    move = """(() => {
        const slider = document.getElementById("round");
        slider.value = 0;
        slider.dispatchEvent(new Event("input"));
        return new Promise(done => setTimeout(done, 500));
    })()"""
    page.evaluate(move)
    assert page.evaluate(text).startswith("round 0:")
    assert page.evaluate(points) != last


def test_filters_hide_and_count(page: Page) -> None:
    def shown(kind: str, words: str) -> list[str]:
        found: list[str] = page.evaluate(
            f"""(() => {{
                document.getElementById("kind").value = {kind!r};
                const box = document.getElementById("words");
                box.value = {words!r};
                box.dispatchEvent(new Event("input"));
                return [...document.querySelectorAll("[data-kind]")]
                    .filter(example => example.offsetParent !== null)
                    .map(example => example.dataset.kind);
            }})()"""
        )
        return found

    everything = shown("all", "")
    assert {"best", "worst"} < set(everything)
    assert set(shown("worst", "")) == {"worst"}
    assert shown("all", "no such words") == []
    assert page.evaluate("document.getElementById('num-shown').value").startswith("0 of ")
    assert shown("all", "NITRO") == everything


def test_a_table_stands_behind_each_chart(page: Page) -> None:
    rows = """(() => {
        const details = document.querySelector("[data-figure=parity] details.rows");
        details.open = true;
        return new Promise(done => setTimeout(
            () => done(details.querySelectorAll("tbody tr").length), 300));
    })()"""
    assert page.evaluate(rows) > 12
    assert page.evaluate("document.querySelector('[data-figure=parity] tbody img')") is None


def test_a_tables_numbers_keep_their_noughts(page: Page) -> None:
    cells = """(() => {
        const details = document.querySelector("[data-figure=time] details.rows");
        details.open = true;
        return new Promise(done => setTimeout(() => done([...details.querySelectorAll("tbody tr")]
            .map(line => [...line.cells].slice(0, 3).map(cell => cell.textContent))), 300));
    })()"""
    found = {phase: seconds for number, phase, seconds in page.evaluate(cells) if number == "0"}
    assert found == {
        "train": "1230",
        "swap": "0.05",
        "evaluate": "12346",
        "generate": "100",
        "server start": "0.3333",
    }


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1200, False)])
def test_it_fits_a_phone_and_a_screen(
    made: RunFolder, tmp_path: Path, width: int, dark: bool
) -> None:
    assert BROWSER
    with Page(BROWSER, tmp_path / "profile", width, dark) as page:
        page.open(made.report)
        assert page.problems == []
        # Wide things scroll in themselves; the page doesn't.
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        colours = "getComputedStyle(document.body).backgroundColor"
        assert (page.evaluate(colours) == "rgb(255, 255, 255)") is not dark
        assert page.print_pdf().startswith(b"%PDF")


def test_a_comparison_opens_too(made: RunFolder, tmp_path: Path) -> None:
    assert BROWSER
    with Page(BROWSER, tmp_path / "profile") as page:
        page.open(made.path.parent.parent / "compare.html")
        assert page.problems == []
        assert local(page)
        assert page.evaluate("document.querySelectorAll('[data-figure] svg.marks').length") == 2
