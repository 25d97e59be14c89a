"""What the fuzzer (tests/fuzz) and its making found, each case by itself.

Before: a traceback, minutes of work on one text, or a result that wasn't so.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save
from samples import make_sample, write_adapter

from selfstudy_engine.data.adapter_manifest import seal_manifest
from selfstudy_engine.data.adapters import Adapter, Probe, read_adapter
from selfstudy_engine.data.arithmetic import read_arithmetic
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.config_sources import TableConfig
from selfstudy_engine.data.errors import (
    AdapterError,
    DamagedShardError,
    ServerError,
    StoreError,
    SwapError,
    TableError,
    UsageError,
)
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.files import sha256_of
from selfstudy_engine.data.molecules import canonicalize, to_molecule
from selfstudy_engine.data.parquet import check_seal
from selfstudy_engine.data.prompts import parse_completion
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.split_record import load_places
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.table_files import Row, read_rows
from selfstudy_engine.engine.answers import to_completions
from selfstudy_engine.engine.canary import Served, check_canary
from selfstudy_engine.engine.concurrency import parse_load
from selfstudy_engine.engine.http_session import retry_after_seconds
from selfstudy_engine.engine.masking import mask_reason
from selfstudy_engine.engine.report_import import load_rounds
from selfstudy_engine.engine.rounds import load_records

MELTING_POINT = find_property("melting_point")
ETHANOL = Molecule("K", "ethanol", "CCO", -114.1)
LONG = 100_000
LABEL = "\nMelting point (°C):"


def parse(text: str) -> object:
    return parse_completion(text, MELTING_POINT)


def mask(text: str) -> object:
    return mask_reason(text, ETHANOL, MELTING_POINT)


def add_up(text: str) -> object:
    return read_arithmetic(text, MELTING_POINT)


def number(text: str) -> object:
    return parse_completion(f"{LABEL} {text}", MELTING_POINT)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (parse, "\n" * LONG),
        (number, "80" + " " * LONG + "x"),
        (add_up, "1" * LONG),
        (add_up, "1 + " + "1" * LONG + " *"),
        (mask, "(" * LONG),
        (mask, "C" * LONG),
        (to_molecule, "C" * LONG),
        (to_molecule, "C1CC1" * (LONG // 5)),
    ],
    ids=[
        "empty lines",
        "blanks",
        "digits",
        "digits of a sum",
        "brackets",
        "token",
        "chain",
        "rings",
    ],
)
def test_a_long_text_is_read_in_a_moment(read: Callable[[str], object], text: str) -> None:
    started = time.process_time()
    read(text)
    assert time.process_time() - started < 1


def test_a_long_cell_is_no_number_in_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"smiles,value\nCCO,{'1' * 1_500_000}x\n{'C' * 1_500_000},5\n")
    started = time.process_time()
    with pytest.raises(TableError, match="no finite number in 1 row ") as caught:
        read_rows(path, TableConfig(), MELTING_POINT)
    assert len(str(caught.value)) < 500
    path.write_text(f"smiles,value\n{'C' * 1_500_000},5\nCCO,1\n")
    table = canonicalize(
        read_rows(path, TableConfig(), MELTING_POINT), MELTING_POINT, TableConfig(), "a"
    )
    assert [len(lines) for lines in table.dropped.values()] == [1]
    assert [molecule.smiles for molecule in table.molecules] == ["CCO"]
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "smiles", ["CCO CC", "CCO\x00", "CCO\tethanol", "CCO\nCC", "CCO |$a;b;c$|"]
)
def test_a_smiles_is_the_whole_text(smiles: str) -> None:
    assert to_molecule(smiles) is None
    [reason] = canonicalize(
        [Row(2, "", smiles, 1.0), Row(3, "", "CC", 1.0)], MELTING_POINT, TableConfig(), "t"
    ).dropped
    assert reason == "unparsable SMILES"


def test_line_numbers_count_the_lines_within_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('smiles,value,note\nCCO,1,"two\nlines"\nCC,x,\n')
    with pytest.raises(TableError, match="line 4: 'x'"):
        read_rows(path, TableConfig(), MELTING_POINT)


@pytest.mark.parametrize("row", ['"1', '1,"', 'CC,"2\nCCC,3', '"CC"x,2', f'CC,"{"1" * 5_000_000}"'])
def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path: Path, row: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"smiles,value\nCCO,1\n{row}\nCCCC,4\n")
    with pytest.raises(TableError, match=r"line 3: (a quote is never closed|',' expected after)"):
        read_rows(path, TableConfig(), MELTING_POINT)


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("smiles,value\n\nCCO,1\r\n\nCC,2\n\n")
    rows = read_rows(path, TableConfig(), MELTING_POINT)
    assert [(row.line, row.value) for row in rows] == [(3, 1.0), (5, 2.0)]


def test_a_row_of_megabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"smiles,value,note\nCCO,1,{'n' * 3_000_000}\nCC,2,\n")
    assert [row.value for row in read_rows(path, TableConfig(), MELTING_POINT)] == [1.0, 2.0]


@pytest.mark.parametrize(
    "column",
    [pa.array([True]), pa.array([b"1_0"]), pa.array([1], pa.timestamp("ns")), pa.array([[1.0]])],
    ids=str,
)
def test_what_isnt_a_number_by_type_is_refused(tmp_path: Path, column: "pa.Array[Any]") -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"smiles": ["CCO"], "value": column}), path)
    with pytest.raises(TableError, match=r"column 'value' holds .*give text or numbers"):
        read_rows(path, TableConfig(), MELTING_POINT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = " + "[" * 5000, "nests|nested|TOML"),
        ("a." * 3000 + "a = 1", "nests its tables too deeply"),
        ("seed = " + "9" * 5000, "TOML.*4300"),
        ("rounds = 0x" + "F" * 5000, "rounds: .*64 bits"),
        ("rounds = '" + "9" * 400 + "'", "rounds: .*64 bits"),
        ('"a\\nb" = 1', r"a b: unknown key"),
        (f"seed = '{'x' * LONG}'", "seed: .*100002 characters"),
        ("".join(f"zzz{i} = 1\n" for i in range(99)), "zzz4: unknown key; and 94 more; known keys"),
    ],
)
def test_a_configuration_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_config(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 4000


RECORD = {"name": "ethanol", "smiles": "CCO", "value": -114.1, "reason": "Small."}


@pytest.mark.parametrize(
    "change", [{"name": {"a": 1}}, {"smiles": ["C"]}, {"source": 3}, {"smiles": "CCO CC"}]
)
def test_an_exemplar_of_other_things_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(orjson.dumps(RECORD | change))
    with pytest.raises(UsageError, match="line 1"):
        load_exemplars(path)


def test_exemplars_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + orjson.dumps(RECORD))
    assert load_exemplars(path)[0].molecule.name == "ethanol"


@pytest.mark.parametrize("tokens", [-1, 2**31, 1.5, "12", True, None])
def test_a_count_of_tokens_that_the_store_couldnt_hold_is_the_servers_error(tokens: Any) -> None:
    choices = [{"index": 0, "text": "a", "finish_reason": "stop"}]
    usage = {"prompt_tokens": tokens, "completion_tokens": 3}
    with pytest.raises(ServerError, match="number of tokens"):
        to_completions({"model": "m", "choices": choices, "usage": usage}, "m", 1)


@pytest.mark.parametrize("number", ["1e999", "1.2.3", ".", "9" * 400])
def test_metrics_that_are_no_numbers_are_left_out(number: str) -> None:
    assert parse_load(f"vllm:num_requests_running {number}\nvllm:num_requests_waiting 1") is None


def test_a_date_out_of_range_is_no_pause() -> None:
    date = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
    assert retry_after_seconds({"Retry-After": date}) is None


ADAPTER = Adapter(
    Path("/a"), "a", "f" * 64, "m", "hub:m", 8, 2.0, [Probe([1, 2], [-0.5], [-1.5], -0.1)], {}
)


CONTINUED = {"token_ids": [1, 2, 3, 4], "logprobs": {"token_logprobs": [-0.1] * 4}}


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": {"a": 1}},
        {"choices": "abc"},
        {"choices": 5},
        {"choices": [[]]},
        {"choices": [CONTINUED | {"prompt_logprobs": {"a": 1}}]},
        {"choices": [CONTINUED | {"prompt_logprobs": [None, {"2": {"logprob": -0.5}}]}]},
        {"choices": [{"prompt_logprobs": [None, {"2": {"logprob": -0.5}}]}]},
        {"choices": [CONTINUED | {"token_ids": "abcd"}]},
        {"choices": [CONTINUED | {"logprobs": {"token_logprobs": ["x"] * 4}}]},
    ],
)
def test_a_canary_that_is_answered_with_anything_else_fails(answer: dict[str, Any]) -> None:
    class Client:
        async def complete(self, **body: Any) -> dict[str, Any]:
            return {"model": "m"} | answer

    client: Any = Client()
    with pytest.raises(SwapError, match="canary"):
        asyncio.run(check_canary(client, Served("m"), ADAPTER, "float32"))


def republish(folder: Path, **manifest: Any) -> None:
    """Write a manifest anew, right about its files."""
    content = orjson.loads((folder / "manifest.json").read_bytes()) | manifest
    hashes = {path.name: sha256_of(path) for path in folder.iterdir() if path.is_file()}
    content["files"] = {name: hashes.get(name, sha) for name, sha in content["files"].items()}
    (folder / "manifest.json").write_bytes(orjson.dumps(seal_manifest(content)))


@pytest.mark.parametrize(
    "config",
    [
        {"r": -16, "use_rslora": True},
        {"r": 10**9},
        {"r": "16"},
        {"r": True},
        {"lora_alpha": "nan"},
        {"lora_alpha": 0},
        {"lora_alpha": -1},
    ],
)
def test_a_rank_or_scaling_that_makes_no_sense_is_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(AdapterError, match=r"can't be served: in its .*(r|lora_alpha): "):
        read_adapter(write_adapter(tmp_path / "a", config))


@pytest.mark.parametrize(
    "canary",
    [
        [],
        [{"token_ids": [1], "adapter_logprobs": [], "base_logprobs": [], "next_logprob": -1.0}],
        [{"token_ids": [1, 2], "adapter_logprobs": [], "base_logprobs": [-1], "next_logprob": -1}],
        [
            {
                "token_ids": [1, 2],
                "adapter_logprobs": ["x"],
                "base_logprobs": [-1],
                "next_logprob": -1,
            }
        ],
    ],
)
def test_a_canary_that_proves_nothing_is_refused(tmp_path: Path, canary: list[Any]) -> None:
    folder = write_adapter(tmp_path / "a")
    republish(folder, canary=canary)
    with pytest.raises(AdapterError, match=r"manifest\.json isn't what was published \(canary"):
        read_adapter(folder)


def test_a_flipped_bit_of_a_manifest_is_found(tmp_path: Path) -> None:
    """It would give samples the name of another adapter."""
    folder = write_adapter(tmp_path / "round-0001")
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"round-0001", b"round-0000"))
    with pytest.raises(AdapterError, match=r"manifest\.json isn't what was published .*SHA-256"):
        read_adapter(folder)


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.PT", "x.pkl"])
def test_a_pickle_beside_the_weights_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(AdapterError, match=f"'{name}' is a link, or runs code"):
        read_adapter(folder)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "", "..", "sub/../../x"])
def test_a_file_of_an_impossible_name_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path / "a")
    content = orjson.loads((folder / "manifest.json").read_bytes())
    republish(folder, files=content["files"] | {name: "0" * 64})
    with pytest.raises(AdapterError, match="is missing or a link"):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (b"PK\x03\x04", "isn't what was published"),
        (save({"a.lora_A.weight": np.zeros((4, 2))}), r"has shape \[4, 2\], not 16 rows"),
    ],
)
def test_weights_that_dont_fit_are_refused(tmp_path: Path, weights: bytes, message: str) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(weights)
    republish(folder)
    with pytest.raises(AdapterError, match=message):
        read_adapter(folder)


def test_a_column_that_a_flipped_bit_renames_isnt_taken_for_one_that_an_old_shard_lacks(
    tmp_path: Path,
) -> None:
    """It would be filled in: samples in sight of the value would count as others."""
    store = SampleStore(tmp_path)
    with store.writer(0) as writer:
        writer.add([make_sample("A", hinted=True)])
    [path] = store.shards()
    content = path.read_bytes()
    assert content.count(b"hinted") > 1
    path.write_bytes(content.replace(b"hinted", b"hintee"))
    with pytest.raises(DamagedShardError, match="SHA-256"):
        check_seal(path.read_bytes())
    assert list(store.samples()) == []
    assert [aside.name for aside in store.set_aside()] == [f"{path.name}.damaged"]


def test_a_sealed_shard_is_read_by_any_reader_of_parquet(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    with store.writer(0) as writer:
        writer.add([make_sample("A"), make_sample("B")])
    [path] = store.shards()
    assert pq.read_table(path)["molecule_id"].to_pylist() == ["A", "B"]


@pytest.mark.parametrize("text", ["99999999999999999999", "１", "1_0", "-1", "0.5"])
def test_an_imported_round_is_a_small_whole_number(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rounds.csv"
    path.write_text(f"run,round,split,mae\na,{text},test,80\n")
    with pytest.raises(TableError, match="line 2: round"):
        load_rounds(path)


@pytest.mark.parametrize("content", [b'{"round":', b"[]\n", b"{}\n", b"\xff\n"])
def test_a_damaged_file_of_a_run_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(content)
    with pytest.raises(StoreError, match=r"metrics.jsonl is damaged \(.*\); remove it: `loop`"):
        load_records(folder)
    folder.split.write_bytes(content)
    with pytest.raises(StoreError, match=r"split.parquet is damaged \(.*\); restore it"):
        load_places(folder.split)
