"""What is installed is what lies here."""

import ast
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from selfstudy_engine.engine import lora_plugin, norm_plugin, seed_plugin

ROOT = Path(__file__).parent.parent
PARTS = ("cli", "data", "engine", "train")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MODULES = [path for part in PARTS for path in sorted((ROOT / part).glob("*.py"))]


def test_packages_are_the_folders_with_an_init() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    folders = [path.parent.name for path in sorted(ROOT.glob("*/__init__.py"))]
    expected = {"selfstudy_engine", *(f"selfstudy_engine.{name}" for name in folders)}
    assert set(setuptools["packages"]) == expected
    assert set(folders) == set(PARTS)
    mapped = {name: str(ROOT / path) for name, path in setuptools["package-dir"].items()}
    assert mapped == {
        name: str(ROOT / (name.removeprefix("selfstudy_engine.") if "." in name else f"src/{name}"))
        for name in expected
    }


def test_packages_are_flat() -> None:
    nested = [path for part in PARTS for path in (ROOT / part).glob("*/*.py")]
    assert nested == []


@pytest.mark.parametrize("part", PARTS)
def test_the_links_are_there_and_relative(part: str) -> None:
    link = ROOT / "src" / "selfstudy_engine" / part
    assert link.is_symlink()
    assert str(link.readlink()) == f"../../{part}"
    assert link.resolve() == ROOT / part


def test_data_files_are_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["selfstudy_engine.data"]
    others = [p for p in (ROOT / "data").iterdir() if p.is_file() and p.suffix != ".py"]
    assert {"exemplars_melting_point.jsonl", "properties.toml"} <= {path.name for path in others}
    for path in others:
        assert any(path.match(pattern) for pattern in patterns), path
    assert (ROOT / "src" / "selfstudy_engine" / "py.typed").exists()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_each_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring, path


def test_the_command_is_the_cli() -> None:
    scripts = PROJECT["project"]["scripts"]
    assert scripts == {"selfstudy-engine": "selfstudy_engine.cli.main:main"}


def test_vllm_finds_the_plugins() -> None:
    plugins = PROJECT["project"]["entry-points"]["vllm.general_plugins"]
    loaded = {
        name: EntryPoint(name, value, "vllm.general_plugins").load()
        for name, value in plugins.items()
    }
    assert loaded == {
        "selfstudy_grouped_lora": lora_plugin.register,
        "selfstudy_cpu_norms": norm_plugin.register,
        "selfstudy_cpu_seeds": seed_plugin.register,
    }
