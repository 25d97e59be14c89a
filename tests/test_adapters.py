"""Adapter folders: whole, verified, and of the right base model."""

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from samples import LORA, write_adapter

from selfstudy_engine.data.adapter_manifest import seal_manifest
from selfstudy_engine.data.adapters import (
    Probe,
    base_fingerprint,
    check_base,
    publish_adapter,
    read_adapter,
)
from selfstudy_engine.data.errors import AdapterError


def write_base(folder: Path, hidden_size: int = 8, weights: bytes = b"weights") -> str:
    folder.mkdir()
    config = {"architectures": ["Llama"], "hidden_size": hidden_size, "vocab_size": 3}
    (folder / "config.json").write_bytes(orjson.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return str(folder)


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    content = orjson.loads(path.read_bytes()) | changes
    kept = {key: value for key, value in content.items() if value is not ...}
    path.write_bytes(orjson.dumps(seal_manifest(kept)))


def test_what_is_published_reads_back(tmp_path: Path) -> None:
    adapter = read_adapter(write_adapter(tmp_path / "adapters" / "round-0001"))
    assert (adapter.name, adapter.rank, adapter.scaling) == ("round-0001", 16, 2.0)
    assert adapter.canary == [Probe([1, 2, 3], [-0.5, -0.25], [-1.5, -2.5], -0.125)]
    assert (adapter.base_model, adapter.training["loss"]) == ("owner/model", 1.5)
    assert len(adapter.sha256) == 64
    assert sorted(path.name for path in adapter.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]


def test_rank_stabilised_scaling(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", {"use_rslora": True, "r": 64, "lora_alpha": 16})
    assert read_adapter(folder).scaling == 2.0


def test_nothing_appears_before_the_block_ends_or_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "adapters" / "a"

    def fail_half_way() -> None:
        with publish_adapter(target, {}) as temporary:
            (temporary / "adapter_model.safetensors").write_bytes(b"half")
            assert not target.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert list(target.parent.iterdir()) == []


def test_an_adapter_is_never_replaced(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(OSError, match="exists already"):
        write_adapter(folder, name="other")
    assert (folder / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path / "a")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(AdapterError, match=rf"{name} isn't what was published.*restore it"):
        read_adapter(folder)


def test_a_linked_or_missing_file_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    moved = shutil.move(weights, tmp_path / "elsewhere")
    with pytest.raises(AdapterError, match="is missing or a link"):
        read_adapter(folder)
    weights.symlink_to(moved)
    with pytest.raises(AdapterError, match="is a link"):
        read_adapter(folder)


def test_a_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    files = orjson.loads((folder / "manifest.json").read_bytes())["files"]
    shutil.copy(folder / "adapter_config.json", tmp_path / "outside")
    digest = files["adapter_config.json"]
    edit_manifest(folder, files=files | {"../outside": digest})
    with pytest.raises(AdapterError, match=r"'\.\./outside' is missing or a link"):
        read_adapter(folder)


def test_without_a_manifest_it_is_no_adapter(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "manifest.json").unlink()
    with pytest.raises(AdapterError, match=r"manifest\.json: No such file.*selfstudy-engine train"):
        read_adapter(folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b""])
def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(AdapterError, match=r"manifest\.json isn't"):
        read_adapter(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": ...},
        {"files": ...},
        {"files": []},
        {"files": {}},
        {"name": ...},
        {"base_fingerprint": ...},
        {"canary": ...},
        {"canary": [{"token_ids": [1]}]},
        {"training": ...},
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write_adapter(tmp_path / "a")
    edit_manifest(folder, **changes)
    with pytest.raises(AdapterError):
        read_adapter(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}},
        {"peft_type": "LOHA"},
    ],
)
def test_what_cannot_be_swapped_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match="only plain LoRA") as caught:
        read_adapter(write_adapter(tmp_path / "a", config))
    [(key, value)] = config.items()
    assert (value if key == "peft_type" else key) in str(caught.value)


@pytest.mark.parametrize("config", [{"r": 0}, {"r": None}, {"lora_alpha": "x"}])
def test_a_peft_configuration_without_a_rank_is_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(AdapterError):
        read_adapter(write_adapter(tmp_path / "a", config))


def test_empty_patterns_are_plain_lora(tmp_path: Path) -> None:
    empty: dict[str, Any] = {
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
    }
    assert read_adapter(write_adapter(tmp_path / "a", empty)).rank == LORA["r"]


def test_fingerprints_tell_base_models_apart(tmp_path: Path) -> None:
    first = base_fingerprint(write_base(tmp_path / "a"))
    assert base_fingerprint(write_base(tmp_path / "copy")) == first
    assert base_fingerprint(write_base(tmp_path / "b", hidden_size=9)) != first
    assert base_fingerprint(write_base(tmp_path / "c", weights=b"Weights")) != first
    assert base_fingerprint(write_base(tmp_path / "d", weights=b"weights\0")) != first
    assert base_fingerprint("owner/model") == "hub:owner/model"


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    base = Path(write_base(tmp_path / "a"))
    (base / "model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"safetensors|weights"):
        base_fingerprint(str(base))
    (base / "config.json").unlink()
    with pytest.raises(AdapterError, match=r"config\.json"):
        base_fingerprint(str(base))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    model = write_base(tmp_path / "base")
    fitting: dict[str, Any] = {"base_model": model, "base_fingerprint": base_fingerprint(model)}
    check_base(read_adapter(write_adapter(tmp_path / "fits", **fitting)), model)
    other = read_adapter(write_adapter(tmp_path / "other"))
    with pytest.raises(AdapterError, match=f"trained on owner/model .*not on {model}.*--model"):
        check_base(other, model)
