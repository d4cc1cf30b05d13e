"""Says what to do about an input in which there is no Parquet file: the sentence with the way to read what is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from tirazh.errors import InputError
from tirazh.pipeline.input.listing.conversions import (
    MAX_BYTES,
    convert_directory,
    convert_file,
    is_text_file,
    text_format,
)
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote

PARQUET_MAGIC = b"PAR1"
# Parquet files begin with these bytes; those with an encrypted footer with the second ones.
_MAGICS = (PARQUET_MAGIC, b"PARE")
_HEAD = 64


def is_parquet(storage: Storage, file: StoredFile) -> bool:
    """Whether a file begins as Parquet files do. Takes one request, and none for a file that is too small."""
    return file.size >= 12 and storage.read_head(file, 4) in _MAGICS


def is_read_as_text(storage: Storage, file: StoredFile) -> bool:
    """Whether a file has the name of a text format that is read as it is, and is no Parquet file all the same."""
    return is_text_file(file.uri) and not is_parquet(storage, file)


def refuse_unreadable(storage: Storage, file: StoredFile) -> None:
    """Raise InputError with the command that converts it if the single input `file` is of a known format that is
    not read, or too large to be read as text."""
    kind = text_format(file.uri)
    if kind is None or is_parquet(storage, file) or (is_text_file(file.uri) and file.size <= MAX_BYTES):
        return
    kind = text_format(file.uri, storage.read_head(file, _HEAD)) or kind
    name = file.uri.rpartition("/")[2] if is_remote(file.uri) else file.uri
    why = f"has more than {MAX_BYTES >> 20} MiB" if is_text_file(file.uri) else "is not a Parquet file"
    raise InputError(
        f"input {show_uri(file.uri)} {why}; write it to a Parquet file and give that: "
        f"{_fetch_first(file.uri)}{convert_file(name, kind)}"
    )


def no_parquet(storage: Storage, uri: str, root: str, found: Sequence[StoredFile]) -> InputError:
    """The error for an input, a directory or a pattern, in which `found` is all there is. `root` is its directory."""
    suffixes = Counter(os.path.splitext(file.uri)[1] or "no suffix" for file in found)
    others = ", ".join(f"{count} × {suffix}" for suffix, count in suffixes.most_common(3)) or "nothing"
    hint = _other_names(storage, root, found) or _other_format(storage, root, found)
    return InputError(f"input {show_uri(uri)} contains no .parquet file (it contains {others}){hint}")


def _other_names(storage: Storage, root: str, found: Sequence[StoredFile]) -> str:
    """The pattern that reads Parquet files without a suffix of Parquet, which are judged by one of them."""
    unnamed = sorted((file for file in found if text_format(file.uri) is None and file.size), key=lambda file: file.uri)
    if not unnamed or not is_parquet(storage, unnamed[0]):
        return ""
    levels = {file.key.count("/") for file in unnamed}
    pattern = f"{root.rstrip('/')}/{'*/' * min(levels) if len(levels) == 1 else '**/'}*"
    return f"; {unnamed[0].key} is a Parquet file without its suffix: a pattern reads such files, '{show_uri(pattern)}'"


def _other_format(storage: Storage, root: str, found: Sequence[StoredFile]) -> str:
    """The command that converts the files of the most frequent known format."""
    kinds = Counter(kind for file in found if (kind := text_format(file.uri)) is not None)
    if not kinds:
        return ""
    kind = kinds.most_common(1)[0][0]
    files = [file for file in found if text_format(file.uri) == kind]
    kind = text_format(files[0].uri, storage.read_head(files[0], _HEAD)) or kind
    directory = root.rpartition("/")[2] if is_remote(root) else root
    command = convert_directory(directory, [file.key for file in files], kind)
    return f"; write Parquet files beside them: {_fetch_first(root)}{command}"


def _fetch_first(uri: str) -> str:
    return "download it, then run " if is_remote(uri) else ""
