"""Adapter folders: what was published comes back, anything else is refused before it is loaded."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from fuzzing import NASTY_TEXTS, exhaustive, fuzz, json_values, may_refuse, mutated_json
from hypothesis import strategies as st
from safetensors.numpy import save
from samples import LORA, write_adapter

from selfstudy_engine.data.adapter_manifest import MAX_RANK, seal_manifest
from selfstudy_engine.data.adapters import MANIFEST, PEFT_CONFIG, WEIGHTS, Adapter, read_adapter
from selfstudy_engine.data.errors import AdapterError
from selfstudy_engine.data.files import sha256_of

FILES = (MANIFEST, PEFT_CONFIG, WEIGHTS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return read_adapter(write_adapter(tmp_path_factory.mktemp("adapters") / "round-0001"))


def fresh(whole: Adapter) -> Path:
    """Return a copy that a case may spoil."""
    folder = whole.folder.with_name("spoilt")
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(whole.folder, folder))


def is_sound(adapter: Adapter) -> None:
    """Assert what whoever serves an adapter relies on."""
    assert 1 <= adapter.rank <= MAX_RANK
    assert math.isfinite(adapter.scaling)
    assert adapter.scaling > 0
    assert adapter.canary
    for probe in adapter.canary:
        lengths = {len(probe.adapter_logprobs), len(probe.base_logprobs), len(probe.token_ids) - 1}
        assert len(lengths) == 1
        assert lengths != {0}
        assert all(type(token) is int and token >= 0 for token in probe.token_ids)
        logprobs = [*probe.adapter_logprobs, *probe.base_logprobs, probe.next_logprob]
        assert all(type(value) is float and math.isfinite(value) for value in logprobs)
    for text in (adapter.name, adapter.base_model, adapter.base_fingerprint):
        assert type(text) is str
        assert text


@fuzz(
    5,
    name=st.sampled_from(FILES),
    at=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_a_flipped_bit_or_a_cut_is_found(
    whole: Adapter, name: str, at: float, bit: int, cut: bool
) -> None:
    folder = fresh(whole)
    content = bytearray((folder / name).read_bytes())
    place = int(at * len(content))
    if cut:
        del content[place:]
    else:
        content[place] ^= 1 << bit
    (folder / name).write_bytes(content)
    with may_refuse(AdapterError):
        assert replace(read_adapter(folder), folder=whole.folder) == whole


def test_every_bit_of_an_adapter_is_found_or_does_nothing(whole: Adapter) -> None:
    folder = fresh(whole)
    for name in FILES:
        content = (folder / name).read_bytes()
        for bit in exhaustive(f"every bit of {name}", 8 * len(content), short=40):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(changed)
            with may_refuse(AdapterError):
                assert replace(read_adapter(folder), folder=whole.folder) == whole
        (folder / name).write_bytes(content)


def rewrite(folder: Path, manifest: Any) -> None:
    """Write a manifest that is right about the files: a forger can count, too."""
    if isinstance(manifest, dict):
        files = manifest.get("files")
        if isinstance(files, dict):
            manifest["files"] = files | {
                name: sha256_of(folder / name) for name in files if name in (PEFT_CONFIG, WEIGHTS)
            }
        manifest = seal_manifest(manifest)
    (folder / MANIFEST).write_bytes(orjson.dumps(manifest))


def manifest_of(whole: Adapter) -> Any:
    return orjson.loads((whole.folder / MANIFEST).read_bytes())


@fuzz(25, data=st.data())
def test_any_manifest_is_sound_or_refused(whole: Adapter, data: st.DataObject) -> None:
    folder = fresh(whole)
    rewrite(folder, data.draw(mutated_json(manifest_of(whole), most=3)))
    with may_refuse(AdapterError):
        is_sound(read_adapter(folder))


RANKS: st.SearchStrategy[Any] = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(
        [0, -1, -16, 1, 512, 513, 10**9, "16", "nan", 16.5, None, True, [16], {}, 1e308, "1" * 400]
    ),
)


@fuzz(
    20,
    rank=RANKS | st.just(16),
    alpha=RANKS | st.just(32),
    stabilised=st.booleans(),
    rest=st.dictionaries(st.sampled_from([*LORA, "use_dora", "x"]), json_values, max_size=1),
)
def test_any_rank_and_scaling_is_sound_or_refused(
    whole: Adapter, rank: Any, alpha: Any, stabilised: bool, rest: dict[str, Any]
) -> None:
    folder = fresh(whole)
    config: dict[str, Any] = (
        LORA | {"r": rank, "lora_alpha": alpha, "use_rslora": stabilised} | rest
    )
    (folder / PEFT_CONFIG).write_bytes(orjson.dumps(config))
    rewrite(folder, manifest_of(whole))
    with may_refuse(AdapterError):
        adapter = read_adapter(folder)
        is_sound(adapter)
        assert adapter.rank == config["r"] == whole.rank  # the tensors' own
        scale = adapter.rank**0.5 if stabilised else adapter.rank
        assert adapter.scaling == config["lora_alpha"] / scale


TENSORS = {"a.lora_A.weight": np.zeros((16, 4), "f4"), "a.lora_B.weight": np.zeros((4, 16), "f4")}
SAFE = save(TENSORS)
headers = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 2**64 - 1).map(lambda length: length.to_bytes(8, "little") + SAFE[8:]),
    st.integers(0, len(SAFE) - 1).map(lambda end: SAFE[:end]),
    st.sampled_from([b"\x80\x04}.", b"PK\x03\x04", SAFE + b"x", save({"w": np.zeros(3)})]),
    mutated_json({"a": {"dtype": "F32", "shape": [16, 4], "data_offsets": [0, 256]}}).map(
        lambda header: (
            len(orjson.dumps(header)).to_bytes(8, "little") + orjson.dumps(header) + bytes(256)
        )
    ),
)


@fuzz(20, weights=headers)
def test_weights_that_are_none_are_refused(whole: Adapter, weights: bytes) -> None:
    folder = fresh(whole)
    (folder / WEIGHTS).write_bytes(weights)
    rewrite(folder, manifest_of(whole))
    with may_refuse(AdapterError):
        is_sound(read_adapter(folder))
        from safetensors.numpy import load

        ranks = {t.shape[0] for name, t in load(weights).items() if ".lora_A." in name}
        assert ranks <= {16}


NAMES = (
    "../outside",
    "/etc/hostname",
    "sub/../../outside",
    "a\0b",
    "x" * 300,
    "",
    ".",
    "..",
    "sub",
)
PICKLES = ("adapter_model.bin", "adapter_model.pt", "x.pkl", "x.PTH", "x.ckpt", "x.pickle", "x.Bin")


@fuzz(
    15,
    name=st.sampled_from([*NAMES, *PICKLES, *NASTY_TEXTS]),
    listed=st.booleans(),
    kind=st.sampled_from(["file", "link", "folder", "nothing"]),
)
def test_no_file_but_the_folders_own_is_ever_read(
    whole: Adapter, name: str, listed: bool, kind: str
) -> None:
    folder = fresh(whole)
    outside = folder.with_name("outside")
    outside.write_bytes(b"mine")
    path, is_inside = folder / name.replace("\0", ""), False
    if Path(name).name == name not in ("", "..") and len(name) < 200 and "\0" not in name:
        is_inside = kind != "nothing"
        if kind == "file":
            path.write_bytes(b"mine")
        elif kind == "link":
            path.symlink_to(outside)
        elif kind == "folder":
            path.mkdir()
    manifest = manifest_of(whole)
    if listed:
        manifest["files"][name] = sha256_of(outside)
    rewrite(folder, manifest)
    with may_refuse(AdapterError):
        is_sound(read_adapter(folder))
        assert kind == "file" if listed else kind != "link" or not is_inside
        assert not is_inside or name not in PICKLES
        assert not listed or Path(name).name == name
