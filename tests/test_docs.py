"""The documentation: it builds, loads nothing from elsewhere, and its commands run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from conftest import train_here
from fake_teacher import KEY, FakeTeacher, Reply
from fake_vllm import FakeVllm
from test_teach_command import name_for

from selfstudy_engine.cli.main import cli
from selfstudy_engine.engine.loop import run_loop

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(selfstudy-engine [^`]+)`")
_SMALL_LOOP = "--batch 8 --test-size 4 --lora-rank 4 --min-steps 4 --concurrency 4 --dtype float32"
_SMALL = {
    "loop": f"{_SMALL_LOOP} --train-evaluation-size 0 --report off",
    "bench": "--quick",
    "teach": "--tolerance 700",
}
"""What is added to a page's commands, so that they take seconds."""
_WITH_SERVER = {"loop", "predict", "evaluate"}


def fences(page: str) -> list[tuple[str, str, str]]:
    """Return language, title and text of a page's blocks."""
    return _FENCE.findall((DOCS / page).read_text("utf-8"))


def commands(page: str) -> list[list[str]]:
    """Return the arguments of each command that a page shows behind a prompt."""
    lines = [
        line for kind, _, text in fences(page) if kind == "console" for line in text.split("\n")
    ]
    shown = [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ ")]
    assert all(words[0] == "selfstudy-engine" for words in shown)
    return [words[1:] for words in shown]


def mentioned(text: str) -> list[list[str]]:
    """Return the arguments of each command in running text, tables and plain blocks."""
    text = text.replace("\\\n", " ")
    plain = [line for line in text.split("\n") if line.startswith("selfstudy-engine ")]
    found = [*_INLINE.findall(text), *plain]
    return [shlex.split(command.replace("\\|", "|"), comments=True)[1:] for command in found]


def check_options(words: list[str]) -> None:
    """Refuse a command or an option that doesn't exist."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        assert words, "a group alone says nothing"
        choices = words[0].split("|")  # `table prepare|describe`
        found = [command.get_command(context, choice) for choice in choices]
        assert all(found), f"no command {words[0]}"
        command, words = found[0] or command, words[1:]
        if not words:
            return
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    options = [word.split("=")[0] for word in words[: [*words, "--"].index("--")]]
    assert {word for word in options if word.startswith("--")} <= known | {"--help"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a broken link or reference is an error."""
    folder = tmp_path_factory.mktemp("site")
    mkdocs = Path(sys.executable).with_name("mkdocs")
    result = subprocess.run(
        [mkdocs, "build", "--quiet", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_every_page_is_reached(site: Path) -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in pages(part)]

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    assert sorted(pages(navigation)) == PAGES
    for page in PAGES:
        html = page.replace("README.md", "index.md").replace(".md", ".html")
        assert (site / html).is_file(), page


def test_the_reference_has_every_command_and_setting(site: Path) -> None:
    shown = (site / "reference/commands.html").read_text("utf-8")
    for name in cli.list_commands(click.Context(cli)):
        assert f"selfstudy-engine {name}" in shown
    assert "Sentinel" not in shown  # how click writes that there is no default
    settings = (site / "reference/configuration.html").read_text("utf-8")
    assert "Completions per molecule (n of one request)." in settings
    assert "tokens_per_step" in settings


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]*\ssrc=\"?https?:|<link[^>]*stylesheet[^>]*https?:"
    )
    for path in site.rglob("*.html"):
        assert not loaded.search(path.read_text("utf-8")), path


@pytest.mark.parametrize("path", [*(f"docs/{page}" for page in PAGES), "README.md"])
def test_mentioned_commands_exist(path: str) -> None:
    for words in mentioned((ROOT / path).read_text("utf-8")):
        check_options(words)


def test_a_wrong_option_is_noticed() -> None:
    for wrong in (["loop", "--no-such"], ["nothing"], ["table", "describe", "--no-such", "x"]):
        with pytest.raises(AssertionError):
            check_options(wrong)


@pytest.fixture
def teacher() -> Iterator[FakeTeacher]:
    with FakeTeacher() as server:
        server.predict = lambda question: Reply("50")
        server.explain = lambda question: Reply(f"A chain of its own kind: {name_for(question)}.")
        yield server


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
@pytest.mark.usefixtures("own_sigterm", "s3")
def test_a_pages_commands_run_in_its_order(
    page: str,
    fake: FakeVllm,
    teacher: FakeTeacher,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As they stand there, but small, against fake servers, and training in this process."""
    assert run_loop.__kwdefaults__
    monkeypatch.setitem(run_loop.__kwdefaults__, "start_training", train_here)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFSTUDY_SERVER_KEY", fake.api_key)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for _, title, text in fences(page):
        if title:
            Path(title).write_text(text, "utf-8")
    for words in commands(page):
        small = shlex.split(_SMALL.get(words[0], ""))
        if words[0] in _WITH_SERVER:
            small += ["--server", fake.url]
        if words[0] == "loop":
            small += ["--model", str(tiny_model)]
        if words[0] == "teach":
            small += ["--teacher-url", teacher.url]
        result = CliRunner().invoke(cli, words + small)
        assert result.exit_code == 0, f"{shlex.join(words)}: {result.output} {result.exception}"
        if words[:2] == ["table", "prepare"]:  # the commands after it read a little of the table
            made = Path(words[words.index("--out") + 1])
            made.write_text("".join(made.read_text("utf-8").splitlines(True)[:500]), "utf-8")
