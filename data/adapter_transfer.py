"""An adapter folder as bytes, and back: how it gets to a machine that doesn't see the folder."""

from dataclasses import replace
from pathlib import Path

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.data.errors import AdapterError, shown
from selfstudy_engine.data.files import publish_folder

AdapterFiles = dict[str, bytes]
"""Name -> content of each file of an adapter folder."""


def pack_adapter(folder: Path) -> AdapterFiles:
    """Return an adapter's files; they are verified where they arrive.

    Raises:
        OSError: one can't be read.
    """
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def unpack_adapter(files: AdapterFiles, folder: Path, sha256: str) -> Adapter:
    """Write an adapter's files into a folder, which appears once they are verified.

    Args:
        files: of `pack_adapter`.
        folder: must not exist.
        sha256: of the adapter that was sent.

    Raises:
        AdapterError: they are another adapter's, or damaged.
        OSError: the folder exists, or can't be written.
    """
    with publish_folder(folder) as temporary:
        for name, content in files.items():
            if Path(name).name != name:
                raise AdapterError(
                    f"adapter {folder}: a file is named {shown(name)}, outside of its folder; "
                    "send the adapter again"
                )
            (temporary / name).write_bytes(content)
        adapter = read_adapter(temporary)
        if adapter.sha256 != sha256:
            raise AdapterError(
                f"adapter {folder} came with SHA-256 {adapter.sha256}, sent was {sha256}; send it "
                "again"
            )
    return replace(adapter, folder=folder)
