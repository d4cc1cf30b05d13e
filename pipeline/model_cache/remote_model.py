"""A model in an object store, as every machine of a run gets it: from the cache of that machine."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from tirazh.errors import CheckpointError, StorageError
from tirazh.model.checkpoints.directory import resolve_model
from tirazh.pipeline.model_cache.download import download, is_full, sha256_of
from tirazh.pipeline.model_cache.index import CachedFile, RemoteIndex, from_text, holds_weights, list_remote, to_text
from tirazh.pipeline.model_cache.locks import alone, keep_in_use
from tirazh.pipeline.model_cache.space import cache_directory, disk_full, make_space, record, use_lock
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, is_remote, keep_trying

logger = logging.getLogger(__name__)

# A smaller file is always read to check it, a larger one if it was changed, or not checked for a week.
_ALWAYS_HASHED, _HASHED_AGAIN_S = 256 << 20, 7 * 86_400.0
_TEXT = "remote-model:"
_tell: ContextVar[Callable[[str], None]] = ContextVar("who hears of downloads", default=logger.info)
# The directories of models that this process has already checked, by (key, with weights).
_checked: dict[tuple[str, bool], str] = {}


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """The address of a model and its `key`, which changes with its files. It can be sent to other machines.

    Called, it returns the directory in the cache of this machine.
    """

    uri: str
    storage: Storage
    key: str

    def __call__(self) -> str:
        """The directory with all files of the model; fetches what is missing.

        Raises StorageError if the model cannot be fetched, CheckpointError if it was changed since the run began.
        """
        return self._fetch(with_weights=True)

    def text(self) -> str:
        """A name for the directory of the tokenizer, which `local_tokenizer_dir` finds on any machine."""
        return _TEXT + json.dumps([self.uri, self.storage.endpoint_url, self.key])

    def tokenizer_dir(self) -> str:
        """The directory with the files that hold no weights. Raises what calling it raises."""
        return self._fetch(with_weights=False)

    def _fetch(self, *, with_weights: bool) -> str:
        known = _checked.get((self.key, True)) or _checked.get((self.key, with_weights))
        if known is not None:
            return known
        index = keep_trying(lambda: list_remote(self.uri, self.storage))
        if index.key != self.key:
            raise CheckpointError(
                f"the model {show_uri(self.uri)} was changed since the run began; start the run again"
            )
        _checked[self.key, with_weights] = found = _fetch_into_cache(index, self.storage, with_weights=with_weights)
        return found


def find_model(name: str, storage: Storage) -> tuple[str, RemoteModel | None]:
    """The directory of a model on this machine, and where it comes from if that is an object store.

    Raises RequestError for an address that cannot be used, CheckpointError if there is no model, and StorageError if it
    cannot be fetched.
    """
    if "://" not in name:
        return resolve_model(name), None
    uri = full_uri(name)
    if not is_remote(uri):
        return uri, None
    model = RemoteModel(uri, storage, list_remote(uri, storage).key)
    return model(), model


def local_tokenizer_dir(directory: str) -> str:
    """The directory of a tokenizer on this machine. `directory` is a path, or the text of a remote model."""
    if not directory.startswith(_TEXT):
        return directory
    uri, endpoint_url, key = json.loads(directory.removeprefix(_TEXT))
    return RemoteModel(uri, Storage(endpoint_url), key).tokenizer_dir()


@contextmanager
def telling_of_downloads(tell: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, `tell` receives a sentence about every download that this process makes."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def _fetch_into_cache(index: RemoteIndex, storage: Storage, *, with_weights: bool) -> str:
    root, key, shown = cache_directory(), index.key, show_uri(index.uri)
    wanted = [name for name in index.names if with_weights or not holds_weights(name)]
    needed = sum(file.size for file in index.files)
    try:
        keep_in_use(use_lock(root, key))
        # The first process of a machine fetches, the others wait for it and find everything.
        with alone(root / f"{key}.fetch"):
            (root / key).mkdir(exist_ok=True)
            whole = _whole_files(root, key)
            missing = [
                (name, file)
                for name, file in zip(index.names, index.files, strict=True)
                if name in wanted and (name not in whole or whole[name].size != file.size)
            ]
            if missing:
                needed = sum(file.size for _, file in missing)
                _tell.get()(f"fetching {shown} ({needed / 2**20:,.1f} MiB) into {root}")
                make_space(root, key, needed, uri=shown)
            for name, file in missing:
                target = root / key / name
                digest = download(file, target, storage)
                whole[name] = _described(target, digest)
                _write_record(root, index, whole)
            if not missing:
                _write_record(root, index, whole)
    except OSError as error:
        if is_full(error):
            raise disk_full(root, shown, needed) from error
        reason = error.strerror or type(error).__name__
        raise StorageError(
            f"the model {shown} cannot be kept in {error.filename or root}: {reason}; TIRAZH_CACHE names another "
            "directory"
        ) from error
    return str(root / key)


def _whole_files(root: Path, key: str) -> dict[str, CachedFile]:
    """The files of a model that are in the cache and have the content that was fetched."""
    try:
        files = from_text(record(root, key).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
    whole = {}
    for name, file in files.items():
        path = root / key / name
        try:
            status = path.stat()
            is_known = (status.st_mtime_ns, status.st_ctime_ns) == (file.mtime_ns, file.ctime_ns)
            is_recent = 0 <= time.time() - file.checked_s < _HASHED_AGAIN_S
            if status.st_size != file.size:
                continue
            if is_known and is_recent and file.size > _ALWAYS_HASHED:
                whole[name] = file
            elif sha256_of(path) == file.sha256:
                whole[name] = _described(path, file.sha256)
            else:
                logger.warning("%s is damaged and is fetched again", path)
        except OSError:
            continue
    return whole


def _described(path: Path, digest: str) -> CachedFile:
    status = path.stat()
    return CachedFile(
        size=status.st_size,
        sha256=digest,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        checked_s=time.time(),
    )


def _write_record(root: Path, index: RemoteIndex, files: dict[str, CachedFile]) -> None:
    path = record(root, index.key)
    incoming = path.with_name(f".{path.name}.{os.getpid()}")
    incoming.write_text(to_text(show_uri(index.uri), files), encoding="utf-8")
    incoming.replace(path)
