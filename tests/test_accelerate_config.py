"""accelerate's configuration file: what is taken from it, and what is refused."""

from pathlib import Path

import pytest

from selfstudy_engine.data.accelerate_config import AccelerateConfig, read_accelerate_config
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.engine.launching import launch_of

FSDP = "distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}\nnum_processes: 2\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "accelerate.yaml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("distributed_type: MULTI_GPU\nnum_processes: 4\n", AccelerateConfig(False, 4)),
        ("mixed_precision: bf16\n", AccelerateConfig(False, None)),
        (FSDP, AccelerateConfig(True, 2)),
    ],
)
def test_what_is_taken(text: str, expected: AccelerateConfig, tmp_path: Path) -> None:
    assert read_accelerate_config(write(tmp_path, text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: DEEPSPEED", "distributed_type 'DEEPSPEED'; training knows DDP and FS"),
        ("distributed_type: [FSDP]", r"distributed_type \['FSDP'\]"),
        ("distributed_type: FSDP", "fsdp_version 1; training knows 2"),
        ("distributed_type: FSDP\nfsdp_config: 2", "fsdp_version 1"),
        ("num_machines: 2", "num_machines 2, but one trains"),
        ("num_processes: true", "num_processes True, which must be 1 or more"),
        ("num_processes: -1", "num_processes -1"),
        ("- FSDP", r"is \['FSDP'\], not a table"),
        ("", "is None, not a table"),
        ("a: [", "isn't YAML"),
        ("a: !!python/object:os.system {}", "isn't YAML"),
    ],
)
def test_what_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_accelerate_config(write(tmp_path, text))


def test_a_file_that_isnt_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't read .*none\.yaml.*check --accelerate-config"):
        read_accelerate_config(tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    with pytest.raises(UsageError, match="isn't YAML"):
        read_accelerate_config(tmp_path / "binary")


def command(*pairs: tuple[str, object]) -> list[str]:
    values = {"devices.train": "cpu", "devices.train_launcher": "accelerate", **dict(pairs)}
    return list(launch_of(load_config(None, values)).command)


def test_the_launchers_command_line(tmp_path: Path) -> None:
    """Replicas are several processes of torch's launcher; FSDP is asked for by the file alone."""
    several = command(("devices.num_processes", 2))
    assert several[1:4] == ["-m", "selfstudy_engine.train.launcher", "--multi_gpu"]
    assert several[several.index("--num_processes") + 1] == "2"
    assert "--config_file" not in several
    path = str(write(tmp_path, FSDP))
    spread = command(("devices.accelerate_config", path))
    assert "--multi_gpu" not in spread
    assert spread[spread.index("--config_file") + 1] == path
    assert spread[spread.index("--num_processes") + 1] == "2"
    more = command(("devices.accelerate_config", path), ("devices.num_processes", 3))
    assert more[more.index("--num_processes") + 1] == "3"
    assert "--multi_gpu" not in command(("devices.num_processes", 1))
