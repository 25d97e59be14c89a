"""The command line: quick, and never a traceback for what a user can cause."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from calls import call, refuse

from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.run_folder import RunFolder, open_run

COMMAND = Path(sys.executable).with_name("selfstudy-engine")
COMMANDS = ["serve", "loop", "teach", "train", "predict", "evaluate", "ablate"]
COMMANDS += ["bench", "claims", "table", "store", "doctor"]
pytestmark = pytest.mark.usefixtures("own_sigterm")
HEAVY = ("torch", "vllm", "rdkit", "transformers", "pandas")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    lines = [f"{'C' * size}O,{10.0 * size}" for size in range(1, 21)]
    path.write_text("\n".join(["smiles,value", *lines, "xyz,1"]), "utf-8")
    return path


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)


def core_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick() -> None:
    """In seconds of a core: what else the machine does meanwhile is no matter."""
    seconds = []
    for _ in range(3):
        before = core_seconds_of_children()
        result = run_command("--help")
        seconds.append(core_seconds_of_children() - before)
        assert result.returncode == 0
    assert min(seconds) < 0.3
    for name in COMMANDS:
        assert name in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["loop", "--help"], ["store", "ls", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", str(COMMAND), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0, result.exception
    assert result.output.startswith(f"Usage: cli {name}")
    listed = next(line for line in call("--help").output.splitlines() if f"  {name}  " in line)
    first_words = " ".join(listed.split()[1:5])
    assert first_words in " ".join(result.output.split())


def test_help_names_defaults_and_limits() -> None:
    text = " ".join(call("loop", "--help").output.split())
    for part in ("--batch", "[default: 256]", "--samples-per-molecule", "--dry-run", "--tolerance"):
        assert part in text


def test_version() -> None:
    assert call("--version").output.startswith("cli, version ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "No such option"),
        (["--conflicts", "maybe"], "'maybe' is not one of 'refuse', 'drop'"),
        (["--adapter-mode", "fast"], "'fast' is not one of"),
        (["--batch", "many"], "'many' is not a valid integer"),
        (["--batch", "0"], "generation.batch"),
        (["--batch", "7"], "batch (7) must be a multiple"),
        (["--rounds", "0"], "rounds"),
        (["--tolerance", "-1"], "property.tolerance"),
        (["--tolerance", "nan"], "property.tolerance"),
        (["--temperature", "3"], "generation.temperature"),
        (["--property", "boiling"], "'boiling' is not built in"),
        (["--test-size", "20"], "test size 20"),
        (
            ["--table", "nowhere.csv"],
            "table nowhere.csv: No such file or directory; check the path",
        ),
        (["--value-column", "mp"], "no column 'mp'"),
        (["--exemplars", "nowhere.jsonl"], "can't read exemplars nowhere.jsonl"),
        (["--config", "nowhere.toml"], "does not exist"),
        (["--run", "../up"], "name: a run is named with letters, digits, '.', '_' and '-', the"),
        (["--model", ""], "has no config.json"),
        (["--seed", "-1"], "seed"),
        (["--server-device", "gpu"], "devices are cpu, cuda:0 or, for several, cuda:0,1; or auto"),
        (["--train-device", "cuda:0\n"], "devices are cpu, cuda:0 or, for several, cuda:0,1;"),
        (["--ray", "head"], "a cluster is HOST:PORT of its head, such as 10.0.0.1:6379; or auto"),
        (["--teacher-url", "localhost:9"], "URL begins with http:// or https://, such as https://"),
    ],
)
def test_a_wrong_call_is_refused(table: Path, arguments: list[str], message: str) -> None:
    common = ["loop", "--dry-run", "--table", table, "--test-size", 5]
    assert message in refuse(*common, *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch = 3", "batch: unknown key, did you mean generation.batch?"),
        ("[generation]\nbatc = 3", "did you mean generation.batch"),
        ("[generation", "isn't valid TOML"),
        ("generation = 3", "generation: it is a table of settings, which are written below [gene"),
        ("[generaton]\nbatch = 3", "generaton: unknown key, did you mean generation?"),
        ("[property]\nname = 'log:P'", "a name is one line without a colon, such as"),
        ("[property]\nunit = ' K'", "a unit is one line, such as °C or log units; no blank"),
        ("[property]\nwording = ''", "a wording is one line, such as Melting point:; no blank"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert message in refuse("loop", "--dry-run", "--config", path)
    assert "bad.toml" in refuse("loop", "--dry-run", "--config", path, "--batch", "4")


def test_a_value_that_is_missing_is_named_and_nothing_else(tmp_path: Path) -> None:
    """Its decimals, whose default comes from the tolerance, are no second mistake."""
    path = tmp_path / "logp.toml"
    path.write_text("[property]\nname = 'logP'\nunit = 'log units'\n")
    said = refuse("loop", "--dry-run", "--config", path)
    assert said == f"Error: invalid configuration in {path}: property.tolerance: Field required"


SERVER = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("toml", "arguments", "server"),
    [
        ("", ["--server", SERVER, "--replicas", "2"], None),
        ("", ["--server", SERVER, "--ray", "auto"], None),
        (f"url = '{SERVER}'\nreplicas = 2", [], None),
        ("replicas = 2\nray = 'auto'", ["--server", SERVER], ([SERVER], 1, "off")),
        (f"url = '{SERVER}'", ["--replicas", "1"], ([], 1, "off")),
        (f"url = '{SERVER}'", ["--ray", "auto"], ([], 1, "auto")),
    ],
)
def test_servers_are_used_or_started_as_the_command_line_says(
    tmp_path: Path, table: Path, toml: str, arguments: list[str], server: object
) -> None:
    """Not both: those to start were silently none."""
    path = tmp_path / "servers.toml"
    path.write_text(f"[server]\n{toml}\n", "utf-8")
    command = ["loop", "--dry-run", "--table", table, "--test-size", 5, "--config", path]
    if server is None:
        assert "leave out the one or the others" in refuse(*command, *arguments)
        return
    plan = tmp_path / "plan.toml"
    plan.write_text(call(*command, *arguments).output, "utf-8")
    found = load_config(plan).server
    assert (found.url, found.replicas, found.ray) == server


def test_a_wrong_call_of_the_real_command() -> None:
    result = run_command("loop", "--batch", "7")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: invalid configuration: ")
    result = run_command("tabel")
    assert (result.returncode, "Did you mean 'table'?" in result.stderr) == (2, True)


def test_a_dry_run_shows_the_plan_and_makes_nothing(tmp_path: Path, table: Path) -> None:
    exemplars = tmp_path / "exemplars.jsonl"
    exemplar = {"name": "ethanol", "smiles": "OCC", "value": 20, "reason": "Small."}
    exemplars.write_bytes(orjson.dumps(exemplar))
    before = sorted(tmp_path.iterdir())
    result = call(
        *("loop", "--dry-run", "--runs", tmp_path / "runs", "--exemplars", exemplars),
        *("--table", table, "--test-size", 5, "--batch", 8, "--rounds", 2),
        *("--", "--max-num-seqs", "4"),
    )
    assert result.exit_code == 0, result.output
    assert "20 molecules = 14 pool + 5 test + 0 set aside (stereo" in result.output
    assert "dropped, unparsable SMILES: 1 (line 22: 'xyz')" in result.output
    assert "16 completions" in result.output
    assert sorted(tmp_path.iterdir()) == before
    plan = tmp_path / "plan.toml"
    plan.write_text(result.output, "utf-8")
    config = load_config(plan)
    assert (config.generation.batch, config.rounds) == (8, 2)
    assert config.server.extra_args == ["--max-num-seqs", "4"]


def test_a_dry_run_refuses_what_the_loop_would(table: Path, tmp_path: Path) -> None:
    arguments = ("loop", "--table", table, "--runs", tmp_path / "runs")
    for more in ([], ["--dry-run"]):
        said = refuse(*arguments, "--temperature", 0, *more)
        assert "2 answers at temperature 0 would be all alike" in said
        said = refuse(*arguments, "--max-tokens", 2048, *more)
        assert "--max-tokens (2048) leaves no room for a prompt in --max-model-len (2048)" in said
    assert not (tmp_path / "runs").exists()
    open_run(tmp_path / "runs", load_config(None, {"table.path": str(table)}), "", "loop")
    for more in ([], ["--dry-run"]):
        said = refuse(*arguments, "--test-size", 5, *more)
        assert "made with another configuration (table.test_size: 200 -> 5)" in said


def test_a_run_goes_on_as_it_began(table: Path, tmp_path: Path) -> None:
    """Its name is enough: defaults may have changed since, and who remembers all that was given?"""
    begun = {"table.path": str(table), "table.test_size": 5, "rounds": 2}
    begun |= {"generation.batch": 12, "generation.samples_per_molecule": 6}
    open_run(tmp_path, load_config(None, begun | {"server.max_num_seqs": 4}), "", "loop")
    plan = ("loop", "--dry-run", "--runs", tmp_path)
    result = call(*plan)
    assert result.exit_code == 0, result.output
    assert "20 molecules = 15 pool + 5 test" in result.output
    assert "24 completions" in result.output
    assert "max_num_seqs" not in result.output, "how the server runs is each call's own"
    more = call(*plan, "--rounds", 7, "--samples-per-molecule", 6)
    assert "rounds = 7\n" in more.output
    said = refuse(*plan, "--batch", 24)
    assert "another configuration (generation.batch: 12 -> 24)" in said
    path = tmp_path / "loop.toml"
    path.write_text("[generation]\nbatch = 24")
    assert "generation.batch: 12 -> 24" in refuse(*plan, "--config", path)


def test_a_configuration_may_come_through_a_pipe(table: Path, tmp_path: Path) -> None:
    """As from a shell's <(...): it can be read once."""
    text = f"name = 'piped'\n[table]\npath = '{table}'\ntest_size = 5\n[generation]\nbatch = 8\n"
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        pipe.write(text)
    try:
        result = call("loop", "--dry-run", "--runs", tmp_path, "--config", f"/dev/fd/{reading}")
    finally:
        os.close(reading)
    assert result.exit_code == 0, result.output
    assert f"# run folder: {tmp_path}/piped\n" in result.output
    assert "batch = 8\n" in result.output


def test_a_run_in_a_folder_of_another_name_is_refused(table: Path, tmp_path: Path) -> None:
    begun = {"table.path": str(table), "table.test_size": 5, "name": "mine"}
    made = open_run(tmp_path, load_config(None, begun), "", "")
    made.path.rename(tmp_path / "default")
    for more in ([], ["--dry-run"]):
        assert "(name: 'mine' -> 'default')" in refuse("loop", "--runs", tmp_path, *more)
    assert not made.path.exists()


def test_a_run_whose_teacher_was_being_asked_doesnt_begin_without(tmp_path: Path) -> None:
    """Named alone, it would begin with the embedded table and the shipped exemplars."""
    answers = RunFolder(tmp_path / "taught").teacher_answers
    answers.parent.mkdir(parents=True)
    answers.write_bytes(b"{}\n")
    for more in ([], ["--dry-run"]):
        said = refuse("loop", "--runs", tmp_path, "--run", "taught", *more)
        assert "was stopped while its teacher was asked; use the same options again" in said


def test_a_dry_run_looks_whether_the_loop_can_begin(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ("loop", "--dry-run", "--table", table, "--test-size", 5, "--runs")
    assert refuse(*plan, table / "runs") == f"Error: {table}/runs/default: Not a directory"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    assert "isn't empty and isn't a run" in refuse(*plan, tmp_path, "--run", "other")
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    assert "tracker wandb isn't installed" in refuse(*plan, tmp_path, "--track", "wandb")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may do anything
    assert f"Error: {tmp_path}: Permission denied; make it" in refuse(*plan, tmp_path / "runs")


def test_a_dry_run_with_a_teacher_asks_nobody(tmp_path: Path, table: Path) -> None:
    """Its exemplars aren't known yet, and others (those that are shipped) are no stand-in."""
    own = tmp_path / "logp.toml"
    own.write_text("[property]\nname = 'logP'\nunit = 'log units'\ntolerance = 0.5\n", "utf-8")
    nobody = "http://127.0.0.1:9/v1"
    common = ("loop", "--dry-run", "--table", table, "--test-size", 5, "--batch", 8)
    for which in (["--config", own], []):
        result = call(*common, *which, "--teacher-url", nobody, "--teacher-exemplars", 3)
        assert result.exit_code == 0, result.output
        assert "20 molecules = 15 pool + 5 test + 0 set aside (stereo" in result.output
        assert ", less what becomes exemplars and their relatives" in result.output
        assert "# teacher: up to 24 calls when the loop begins, for 3 exemplars" in result.output
    assert "no exemplars are shipped for logP" in refuse(*common, "--config", own)


def test_a_dry_run_of_a_run_that_was_taught_asks_no_more(tmp_path: Path, table: Path) -> None:
    exemplar = {"name": "ethanol", "smiles": "OCC", "value": 20, "reason": "Small."}
    path = tmp_path / "taught.toml"
    path.write_text(
        f"name = 'taught'\n[table]\npath = '{table}'\ntest_size = 5\n"
        "[teacher]\nurl = 'http://127.0.0.1:9/v1'\n"
    )
    run = open_run(tmp_path, load_config(path), "", "loop")
    run.exemplars().write_bytes(orjson.dumps(exemplar))
    result = call("loop", "--dry-run", "--runs", tmp_path, "--config", path)
    assert "20 molecules = 14 pool + 5 test + 0 set aside (stereo" in result.output
    assert "less what becomes exemplars" not in result.output
    assert "# teacher: none\n" in result.output


def test_flags_go_before_the_file(tmp_path: Path, table: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"rounds = 7\n[table]\npath = '{table}'\ntest_size = 5\n[train]\nrank = 4\n")
    result = call("loop", "--dry-run", "--config", path, "--lora-rank", 8)
    assert "rounds = 7" in result.output
    assert "rank = 8" in result.output


@pytest.mark.parametrize(
    "command",
    [
        ["teach", "--teacher-url", "http://127.0.0.1:9/v1", "--teacher-model", "any"],
        ["evaluate", "--run", "r"],
        ["report", "r"],
        ["predict", "--run", "r", "--smiles", "C"],
        ["claims", "answers.jsonl"],
        ["store", "export", "--run", "r"],
    ],
    ids=lambda command: command[0],
)
def test_a_file_in_a_folder_that_isnt_there_is_refused(tmp_path: Path, command: list[str]) -> None:
    """Before work is done; some commands made the folder, and a mistyped one was found late."""
    out = tmp_path / "nowhere" / "out.parquet"
    assert f"folder {out.parent} doesn't exist" in refuse(*command, "--out", out)
    assert not out.parent.exists()


def test_train_refuses_before_it_starts(tmp_path: Path) -> None:
    assert "exists already" in refuse("train", "--out", tmp_path)
    out = tmp_path / "adapter"
    assert "no run 'other'" in refuse("train", "--out", out, "--runs", tmp_path, "--run", "other")
    missing = refuse("train", "--out", out, "--exemplars", tmp_path / "none.jsonl")
    assert "does not exist" in missing
    assert "train.rank" in refuse("train", "--out", out, "--lora-rank", 0)
    assert not out.exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [("./nowhere", "neither a folder nor a hub id"), ("EMPTY", "has no config.json")],
)
def test_serve_refuses_a_model_that_is_none(tmp_path: Path, model: str, message: str) -> None:
    chosen = tmp_path if model == "EMPTY" else model
    text = refuse("serve", "--model", chosen, "--log", tmp_path / "log", "--port", 49_731)
    assert message in text


@pytest.mark.parametrize("port", [-1, 65_536])
def test_serve_refuses_a_port_that_is_none(tmp_path: Path, port: int) -> None:
    refuse("serve", "--model", tmp_path, "--log", tmp_path / "log", "--port", port)


def test_a_switch_takes_no_value(table: Path) -> None:
    common = ("loop", "--dry-run", "--table", table, "--test-size", 5)
    assert "trust_remote_code = false" in call(*common).output
    assert "trust_remote_code = true" in call(*common, "--trust-remote-code").output


def test_a_switch_that_is_on_can_be_turned_off(table: Path, tmp_path: Path) -> None:
    common = ("loop", "--dry-run", "--table", table, "--test-size", 5)
    assert "fast_lora = true" in call(*common).output
    assert "fast_lora = false" in call(*common, "--no-fast-lora").output
    off = tmp_path / "off.toml"
    off.write_text("[server]\nfast_lora = false\n")
    assert "fast_lora = false" in call(*common, "--config", off).output
    assert "fast_lora = true" in call(*common, "--config", off, "--fast-lora").output
