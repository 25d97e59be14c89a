"""TOML: a configuration that holds what the file says, or an error that names what it can't be."""

import datetime
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from fuzzing import NASTY_TEXTS, fuzz, may_refuse, mutated, written_texts
from hypothesis import strategies as st

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.config_keys import flatten
from selfstudy_engine.data.errors import UsageError

KEYS = sorted(flatten(RunConfig().model_dump()))
VALUES = st.one_of(
    st.integers(-(10**30), 10**30),
    st.integers(0, 100),
    st.sampled_from([10**400, -(10**400), 2**31, 2**63, 2**64]),
    st.floats(),
    st.booleans(),
    written_texts,
    st.sampled_from(
        ["auto", "cpu", "cuda:0", "runtime", "named", "drop", "K", "5", "nan", "melting_point"]
    ),
    st.lists(written_texts, max_size=2),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(written_texts, st.integers(0, 3) | written_texts, max_size=2),
    st.just(datetime.date(1979, 5, 27)),
)
keys = st.sampled_from(
    [*KEYS, "property", "train", "table.path", "teacher.url", "x", "train.x", "property.x"]
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "run.toml"


def holds(config: RunConfig, tables: dict[str, Any]) -> None:
    """Assert that a configuration says what a file does, number for number, and reads back."""
    resolved = flatten(config.model_dump())
    for key, value in flatten(tables).items():
        if key == "property":
            assert config.property.name.replace(" ", "_") == value
        elif isinstance(value, list):
            assert resolved[key] == value
        else:
            assert resolved[key] == value or float(resolved[key]) == float(value), key


def resolve(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with may_refuse(UsageError):
        config = load_config(path)
        holds(config, tomllib.loads(content.decode("utf-8-sig")))
        path.write_text(config.to_toml(), "utf-8")
        assert load_config(path) == config


@fuzz(60, values=st.dictionaries(keys, VALUES, min_size=1, max_size=3))
def test_any_value_of_any_key(path: Path, values: dict[str, Any]) -> None:
    lines = [tomli_w.dumps({"x": value}, multiline_strings=False) for value in values.values()]
    if any("[" in line.split("=")[0] for line in lines):  # a table: as one under its own name
        content = tomli_w.dumps({key.replace(".", "_"): value for key, value in values.items()})
        nested = {key: value for key, value in values.items() if "." not in key}
        content = tomli_w.dumps(nested)
    else:
        pairs = zip(values, lines, strict=True)
        content = "".join(f"{key}{line.removeprefix('x')}" for key, line in pairs)
    resolve(path, content.encode())


BASES = (
    RunConfig().to_toml().encode(),
    b"rounds = 10\n[generation]\nbatch = 4096\nsamples_per_molecule = 4\n[train]\nrank = 32\n",
    b'[property]\nname = "boiling point"\nunit = "K"\ntolerance = 25.0\n[table]\npath = "bp.csv"\n',
    b"property = 'boiling_point'\nseed = 7\ntrack = ['wandb']\n[server]\nextra_args = ['--a']\n",
)
tokens = st.one_of(
    st.sampled_from(
        [
            b"=",
            b"[",
            b"]",
            b"[[",
            b"{",
            b"}",
            b'"',
            b'"""',
            b"'",
            b"\n",
            b"#",
            b".",
            b"\\u0000",
            b"\\",
            b",",
        ]
    ),
    st.sampled_from(
        [
            b"nan",
            b"-inf",
            b"1e999",
            b"true",
            b"0x1F",
            b"1979-05-27",
            b"[" * 5000,
            b"a." * 3000,
            b"9" * 5000,
            b"0x" + b"F" * 5000,
        ]
    ),
    st.sampled_from(
        [b"\n[train]\n", b"\nrounds = 1\n", b"\n[property]\n", b"\nx = 1\n", b'\n"a\\nb" = 1\n']
    ),
    st.sampled_from(NASTY_TEXTS).map(lambda text: text.encode()),
    st.binary(max_size=3),
)


@fuzz(25, content=mutated(BASES, tokens))
def test_a_mutated_file_is_read_as_it_stands_or_refused(path: Path, content: bytes) -> None:
    resolve(path, content)
