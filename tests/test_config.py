"""Defaults < TOML < command line, and messages that say what to change."""

import re
from pathlib import Path

import pytest
import tomli_w

from selfstudy_engine.data.config import RunConfig, load_config, override, settle_config
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.properties import find_property


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text, "utf-8")
    return path


def test_defaults_give_way_to_toml_and_toml_to_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "rounds = 5\n[generation]\nbatch = 64\ntemperature = 0.5")
    config = load_config(path, {"generation.batch": 32, "train.rank": 8})
    assert (config.rounds, config.generation.batch, config.generation.temperature) == (5, 32, 0.5)
    assert (config.train.rank, config.generation.top_p, config.seed) == (8, 1.0, 0)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "\ufeffrounds = 5")).rounds == 5


def test_without_anything_the_defaults_stand() -> None:
    assert load_config(None) == RunConfig()
    assert RunConfig().property.name == "melting point"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[generation]\nbatc = 4", "generation.batc: unknown key, did you mean generation.batch"),
        ("xyzzy = 4", r"xyzzy: unknown key; known keys: .*generation.batch"),
        ("rounds = 0", r"rounds: .*greater than or equal to 1 \(got 0\)"),
        ("rounds = 'many'", r"rounds: .*integer.*\(got 'many'\)"),
        ("[generation]\nbatch = 0", r"generation.batch: .*\(got 0\)"),
        ("[generation]\nbatch = 7", r"batch \(7\) must be a multiple .*\(2\); try 8"),
        ("[generation]\ntop_p = 0.0", "generation.top_p"),
        ("[train]\nrank = true", r"train.rank: .*takes no true or false \(got True\)"),
        ("[train]\nepochs = inf", "train.epochs: .*finite"),
        ("[train]\nlearning_rate = nan", "train.learning_rate"),
        ("[table]\nconflicts = 'ignore'", "table.conflicts: .*'refuse' or 'drop'"),
        ("name = '../elsewhere'", "name: "),
        ("seed = 1180591620717411303424", "seed: "),
        ("generation = 3", "generation: "),
        ("property = 3", "property: "),
        ("property = 'boiling'", r"'boiling' is not built in \(known: .*melting_point\)"),
        ("[property]\nname = 'density'", "property.unit: .*required; property.tolerance"),
        ("[property]\ntolerance = 0", "property.tolerance: .*greater than 0"),
        ("[property]\ntolerance = -1.0", "property.tolerance: .*greater than 0"),
        ("rounds = x", r"isn't valid TOML: .*line 1, column 10"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert "run.toml" in str(caught.value) or "not built in" in str(caught.value)


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"rounds: .*; seed: .*; train.rank: "):
        load_config(write(tmp_path, "rounds = 0\nseed = -1\n[train]\nrank = 0"))


def test_an_override_into_a_section_that_is_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="generation"):
        load_config(write(tmp_path, "generation = 3"), {"generation.batch": 4})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml: No such file"):
        load_config(tmp_path / "nowhere.toml")
    with pytest.raises(UsageError, match="Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes("name = 'caf\xe9'".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.toml isn't valid TOML"):
        load_config(tmp_path / "latin.toml")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 128])
def test_the_proposed_batch_is_accepted(size: int) -> None:
    wrong = size * 3 + (1 if size > 1 else 0)
    if size == 1:
        assert load_config(None, {"generation.samples_per_molecule": 1, "generation.batch": wrong})
        return
    with pytest.raises(UsageError) as caught:
        load_config(None, {"generation.samples_per_molecule": size, "generation.batch": wrong})
    proposed = int(str(caught.value).split("try ")[1].split()[0])
    accepted = {"generation.samples_per_molecule": size, "generation.batch": proposed}
    assert load_config(None, accepted).generation.batch == size * 4


EVERYTHING = {
    "name": "run-1.a_b",
    "seed": 7,
    "rounds": 9,
    "train_evaluation_size": 0,
    "property": {
        "name": 'log "P"',
        "unit": "µ\\%",
        "tolerance": 0.5,
        "minimum": -5.0,
        "maximum": 9.5,
        "decimals": 2,
    },
    "table": {
        "path": "C:\\tables\\π [1].csv",
        "smiles_column": "SMILES",
        "value_column": "a = b # c",
        "name_column": "name\twith tab",
        "value_unit": "K",
        "conflicts": "drop",
        "max_spread": 5.0,
        "test_size": 1,
    },
    "model": {"path": "owner/model", "dtype": "float16", "trust_remote_code": True},
    "teacher": {
        "exemplars": "a.jsonl",
        "url": "http://localhost:1/v1",
        "model": "m",
        "num_exemplars": 3,
        "temperature": 0.5,
        "price_in": 2.5,
        "price_out": 10.0,
        "max_cost": 3.0,
    },
    "generation": {"batch": 9, "samples_per_molecule": 3, "temperature": 0.0, "concurrency": 5},
    "train": {"target_modules": ["q_proj", "v_proj"], "epochs": 0.5, "learning_rate": 1e-6},
    "server": {
        "url": "http://[::1]:8000",
        "max_num_seqs": 64,
        "api_server_count": 2,
        "gpu_memory_utilization": 0.5,
        "extra_args": ["--x", "a b", '"'],
    },
    "devices": {"server": "cuda:0,1", "train": "cpu"},
}


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_to_toml_reads_back_the_same(tmp_path: Path, values: dict[str, object]) -> None:
    config = RunConfig.model_validate(values)
    path = write(tmp_path, config.to_toml())
    assert load_config(path) == config


def test_every_optional_of_the_example_above_is_set() -> None:
    config = RunConfig.model_validate(EVERYTHING)
    for section in (
        *(config.table, config.model, config.teacher, config.generation, config.server),
    ):
        assert None not in section.model_dump().values()


def test_property_by_name_by_table_and_by_override(tmp_path: Path) -> None:
    by_name = load_config(write(tmp_path, "property = 'melting_point'"))
    assert by_name == RunConfig()
    changed = load_config(write(tmp_path, "property = 'melting_point'"), {"property.tolerance": 5})
    assert (changed.property.name, changed.property.tolerance) == ("melting point", 5.0)
    partial = load_config(write(tmp_path, "[property]\ntolerance = 12.5"))
    assert (partial.property.unit, partial.property.tolerance) == ("°C", 12.5)


def test_a_property_override_replaces_the_whole_table(tmp_path: Path) -> None:
    table = {"property": {"name": "density", "unit": "g/mL", "tolerance": 0.1, "decimals": 3}}
    path = write(tmp_path, tomli_w.dumps(table))
    assert load_config(path).property.question == "Density (g/mL):"
    assert load_config(path).property.maximum == 1e6
    assert load_config(path, {"property": "melting_point"}) == RunConfig()
    both = load_config(path, {"property": "melting_point", "property.tolerance": 1.0})
    assert (both.property.decimals, both.property.tolerance) == (0, 1.0)


def test_a_run_that_goes_on_keeps_what_nothing_else_says() -> None:
    begun = load_config(None, {"train.rank": 8, "seed": 1, "property.tolerance": 5.0})
    assert settle_config({}, {}, begun=begun) == begun
    found = settle_config({"seed": 2, "train.alpha": 4}, {"rounds": 9}, begun=begun)
    assert (found.train.rank, found.seed, found.train.alpha, found.rounds) == (8, 2, 4.0, 9)
    assert found.property.tolerance == 5.0
    elsewhere = load_config(None, {"server.max_num_seqs": 4, "name": "mine", "remote": "s3://b/r"})
    assert settle_config({}, {}, begun=elsewhere) == RunConfig(), "these are each call's own"


def test_the_runs_own_property_is_as_it_is_there_when_it_is_named_again() -> None:
    """Of an earlier version's, or where a file and an option both named one."""
    old = {"property.tolerance": 5.0, "property.digits": 1}
    begun = load_config(None, old)
    assert settle_config({}, {"property": "melting_point"}, begun=begun) == begun
    assert settle_config({"property": "melting_point"}, {}, begun=begun) == begun
    own = {"property.name": "melting point", "property.unit": "°C", "property.tolerance": 20.0}
    named = settle_config(own, {}, begun=begun).property
    assert (named.tolerance, named.digits) == (20.0, 1)
    assert settle_config(own, {"property": "melting_point"}, begun=begun) == begun
    for key in ("boiling_point", "aqueous_solubility"):
        found = settle_config({}, {"property": key}, begun=begun)
        assert found.property == find_property(key) == override(begun, {"property": key}).property
    assert override(begun, {"property": "melting_point"}) == begun


def test_differences_name_both_values_and_leave_out_how_the_server_is_asked() -> None:
    free: dict[str, float] = {"rounds": 9, "server.block_size": 16, "generation.concurrency": 7}
    free |= {"teacher.price_in": 1.0, "teacher.price_out": 2.0, "teacher.max_cost": 3.0}
    free |= {"teacher.concurrency": 2, "teacher.timeout_seconds": 5.0}
    mine = load_config(None, {"train.rank": 8, "seed": 1} | free)
    assert mine.differences(RunConfig()) == ["seed: 1 -> 0", "train.rank: 8 -> 16"]
    assert mine.differences(mine) == []
    with_table = load_config(None, {"table.path": "a.csv"})
    assert with_table.differences(RunConfig()) == ["table.path: 'a.csv' -> None"]


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"max_cost": 2}, r"max_cost \(2\) can't be kept without prices; give --price-in"),
        ({"price_in": 2}, "price_in and price_out go together"),
        ({"price_out": 0}, "price_in and price_out go together"),
        ({"url": "https://u:p-secret@host/v1"}, "leave the key out, set OPENAI_API_KEY$"),
        ({"url": "host/v1"}, r"teacher\.url: .* begins with http:// or https://"),
    ],
)
def test_a_teacher_that_could_cost_or_tell_too_much_is_refused(
    teacher: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_config(None, {f"teacher.{key}": value for key, value in teacher.items()})
    assert "p-secret" not in str(error.value)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"url": "http://u:p-secret@127.0.0.1:8000"}, "leave the key out, set SELFSTUDY_SERVER"),
        ({"extra_args": ["--api-key", "p-secret"]}, "--api-key: .*set SELFSTUDY_SERVER_KEY"),
        ({"extra_args": ["--max-num-seqs", "4", "--api_key=p-secret"]}, "set SELFSTUDY_SERVER_KEY"),
        ({"extra_args": ["--api", "p-secret"]}, "--api: .*set SELFSTUDY_SERVER_KEY"),
        ({"extra_args": ["--hf-token", "p-secret"]}, "set HF_TOKEN"),
        ({"extra_args": ["--host", "0.0.0.0"]}, "--host: .*serve has --port, --public and --host"),
        ({"extra_args": ["--hos=0.0.0.0"]}, "--hos: .*--public"),
        ({"extra_args": ["--uds", "/tmp/socket"]}, "--uds"),
        ({"extra_args": ["--data-parallel-external-lb"]}, "start several servers instead"),
        ({"extra_args": ["-dp", "2", "-dpr=1"]}, "-dpr: .*start several servers instead"),
        ({"extra_args": ["--middleware", "mine.First"]}, "stand before what asks for the key"),
        ({"extra_args": ["--ssl-keyfile", "key.pem"]}, "serve --public"),
    ],
)
def test_what_would_open_a_server_or_show_a_secret_is_refused(
    server: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_config(None, {f"server.{key}": value for key, value in server.items()})
    assert "p-secret" not in str(error.value)


def test_a_part_of_a_gib_is_refused_as_vllm_would_die_of_it() -> None:
    with pytest.raises(UsageError, match=r"server\.kv_cache_gib: .*integer.* \(got 0\.5\)"):
        load_config(None, {"server.kv_cache_gib": 0.5})
    assert load_config(None, {"server.kv_cache_gib": 2.0}).server.kv_cache_gib == 2


def test_servers_are_taken_by_one_url_or_several(tmp_path: Path) -> None:
    one = load_config(None, {"server.url": "http://127.0.0.1:8000/v1/"})
    assert one.server.url == ["http://127.0.0.1:8000"]
    assert (
        load_config(None, {"server.url": ["http://a", "http://b/v1"]}).server.url[1] == "http://b"
    )
    with pytest.raises(UsageError, match="names a server twice"):
        load_config(None, {"server.url": ["http://a", "http://a/v1"]})
    with pytest.raises(UsageError, match=r"server\.url"):
        load_config(None, {"server.url": 8000})


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "foo", "http://", "http:///v1", "ftp://a", "http://a:port", "http://a b"],
)
def test_what_is_no_servers_address_is_refused_by_its_name(url: str) -> None:
    shown = url.rstrip("/").removesuffix("/v1")
    with pytest.raises(UsageError, match=re.escape(f"url {shown!r} isn't")):
        load_config(None, {"server.url": ["http://[::1]:8000", "https://a-b.c/d/v1", url]})


def test_arguments_that_only_look_alike_are_passed_on() -> None:
    arguments = ["--hf-overrides", "{}", "--middleware-x", "1", "--", "-h", "host"]
    assert load_config(None, {"server.extra_args": arguments}).server.extra_args == arguments


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().rounds = 4
