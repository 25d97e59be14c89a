"""What brings a run's folder up to date with S3; a loop may go on elsewhere meanwhile.

S3's word counts: what differs here is replaced, but never a whole shard by a damaged one.
"""

import hashlib
import logging
import re
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from selfstudy_engine.data.adapters import MANIFEST, read_adapter
from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import (
    AdapterError,
    DamagedShardError,
    RunFolderError,
    SelfStudyError,
)
from selfstudy_engine.data.files import make_folder, publish_folder, write_atomic
from selfstudy_engine.data.objects import Objects
from selfstudy_engine.data.remote_address import RemoteAddress
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.scratch import scratch_folder
from selfstudy_engine.data.shards import SET_ASIDE, check_shard, has_grown, keep_beside
from selfstudy_engine.data.store import SampleStore

if TYPE_CHECKING:
    from obstore import ObjectMeta

_FILE = re.compile(
    r"run\.toml|(split|evaluations/round-\d{4,}|samples/round-\d{4,}/part-\d{6})\.parquet|"
    r"(exemplars|metrics)\.jsonl"
)
_IN_ADAPTER = re.compile(r"(adapters/round-\d{4,})/([A-Za-z0-9_][^/]*)")
_IDENTITY = "run.json"
"""Its presence says that a run has begun; comes last."""
_NUM_AT_ONCE = 16
logger = logging.getLogger(__name__)


def pull(folder: RunFolder, remote: str) -> None:
    """Bring a folder up to date with S3, or make it; a loop may go on elsewhere.

    Raises:
        RunFolderError: there is no such run, or the folder is another's.
        InUseError: another process uses the folder.
        StoreError: S3 can't be read.
    """
    objects = Objects(RemoteAddress.parse(remote) / folder.path.name)
    if not folder.identity.exists() and not objects.find(_IDENTITY):
        raise RunFolderError(f"no run in {objects.address}; check --run and --remote")
    make_folder(folder.path)
    with folder.locked():
        bring_up_to_date(folder, objects, remote, holds=False)


def begun_config(folder: RunFolder, remote: str | None) -> RunConfig | None:
    """Return the configuration of a run that has begun, from S3 if it lies there, or None.

    Raises:
        RunFolderError: the run is damaged, or of another version.
        UsageError: `remote` is no address.
        StoreError: S3 can't be read.
    """
    if remote is None:
        return read_config(folder) if folder.identity.exists() else None
    objects = Objects(RemoteAddress.parse(remote) / folder.path.name)
    identity = objects.find(_IDENTITY)
    if not identity:
        return None
    with scratch_folder() as scratch:
        run = RunFolder(scratch)
        run.identity.write_bytes(identity.content)
        run.config.write_bytes(objects.read(run.config.name))
        try:
            return read_config(run)
        except SelfStudyError as error:
            raise type(error)(str(error).replace(str(scratch), str(objects.address))) from error


def bring_up_to_date(folder: RunFolder, objects: Objects, remote: str, *, holds: bool) -> None:
    """Fetch what differs; does nothing if no run has begun.

    Args:
        folder: of the run.
        objects: of the run.
        remote: address of all runs.
        holds: whether this process holds the run, and may set aside and repair what is there.

    Raises:
        RunFolderError: the folder is another run's.
        AdapterError: an adapter there is damaged.
        StoreError: S3 can't be read.
    """
    listed = {meta["path"]: meta for meta in objects.list()}
    if _IDENTITY not in listed:
        if folder.identity.exists():
            raise RunFolderError(
                f"{folder.path} is a run, and in {objects.address} there is none; restore what was "
                "there, copy the run there with all its files, or choose another --run"
            )
        return
    if folder.config.exists() and load_config(folder.config).remote != remote:
        # Unless it was copied there: then it says so itself as soon as a loop goes on.
        for path in (folder.config, folder.identity):
            if not path.exists() or path.read_bytes() != objects.read(path.name):
                raise RunFolderError(
                    f"{folder.path} is another run than {objects.address}: it wasn't made with "
                    f"--remote {remote}; choose another --run or --runs"
                )

    def fetch(key: str) -> None:
        _fetch(folder, objects, listed[key], holds=holds)

    with ThreadPoolExecutor(_NUM_AT_ONCE, "pull") as pool:
        list(pool.map(fetch, filter(_FILE.fullmatch, listed)))
    names = [match.groups() for match in map(_IN_ADAPTER.fullmatch, listed) if match]
    for adapter, name in names:
        if name == MANIFEST:
            files = [other for parent, other in names if parent == adapter]
            _fetch_adapter(folder.path / adapter, adapter, files, objects)
    for path in (folder.samples, folder.adapters, folder.logs, folder.evaluation(0).parent):
        path.mkdir(exist_ok=True)
    fetch(_IDENTITY)
    if holds:
        _drop_what_s3_lacks(folder, objects, listed)


def _drop_what_s3_lacks(folder: RunFolder, objects: Objects, listed: Collection[str]) -> None:
    """Leave out shards that it set aside or lost: others may have asked for their samples again."""
    for shard in SampleStore(folder.samples).shards():
        if shard.relative_to(folder.path).as_posix() not in listed:
            keep_beside(shard)
            shard.unlink()
            logger.warning("shard %s isn't in %s: no longer used", shard, objects.address)


def _fetch(folder: RunFolder, objects: Objects, meta: "ObjectMeta", *, holds: bool) -> None:
    key = meta["path"]
    path = folder.path / key
    before = path.read_bytes() if path.exists() else None
    # An ETag is the content's MD5 in most servers; where it isn't, the content is read.
    if before is not None and meta["e_tag"] == f'"{_md5(before)}"':
        return
    content = objects.read(key)
    if content == before:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.parent != folder.samples:
        write_atomic(path, content)
        return
    if problem := problem_of(content):
        kept = before is not None and not problem_of(before)
        if holds and before is not None and kept:
            objects.replace(key, before)
        elif holds:
            objects.move(key, f"{key}{SET_ASIDE}")
        if not kept:
            write_atomic(path.with_name(f"{path.name}{SET_ASIDE}"), content)
        outcome = "the copy here is whole" if kept else f"set aside as {path.name}{SET_ASIDE}"
        logger.warning("%s can't be read (%s); %s", objects.url(key), problem, outcome)
        return
    if before is not None and not has_grown(before, content):
        keep_beside(path)
    write_atomic(path, content)


def _fetch_adapter(target: Path, key: str, names: list[str], objects: Objects) -> None:
    manifest = target / MANIFEST
    if manifest.exists() and manifest.read_bytes() == objects.read(f"{key}/{MANIFEST}"):
        return
    if target.exists():
        logger.warning("adapter %s isn't the one of %s: replaced", target, objects.url(key))
        shutil.rmtree(target)
    with publish_folder(target) as temporary:
        for name in names:
            objects.download(f"{key}/{name}", temporary / name)
        try:
            read_adapter(temporary)
        except AdapterError as error:
            message = str(error).replace(str(temporary), objects.url(key))
            raise AdapterError(message) from error


def problem_of(shard: bytes) -> str:
    """Return what is wrong with a shard; empty if nothing is."""
    try:
        check_shard(shard)
    except DamagedShardError as error:
        return str(error)
    return ""


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
