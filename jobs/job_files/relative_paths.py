"""Relative paths of a job file are relative to its directory, so a job is the same from every working directory.

Addresses of object stores, absolute paths and the embedded model stay as they are. A path that exists only relative to
the working directory is refused with the path to write: earlier versions took it from there.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Any

from tirazh.errors import RequestError
from tirazh.jobs.job_files.variables import FILE_OR_VALUE, map_texts
from tirazh.pipeline.settings import EMBEDDED_MODEL
from tirazh.pipeline.storage.errors import show_uri

PATHS = (
    *("input", "output", "model", "tokenizer", "deepspeed_config", "examples", "against", "calibrate"),
    *("eval_input", "label_input", "work_dir"),
)
# Values of `model` and `calibrate` that are not paths.
_NOT_PATHS = {"model": (EMBEDDED_MODEL,), "calibrate": ("contextual", "batch")}
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*:/")


def from_folder(name: str, value: Any, folder: Path, *, place: str = "") -> Any:
    """The value of the setting `name` with its relative paths taken from `folder`, as absolute paths.

    Raises RequestError for a path that exists in the working directory and not in `folder`.
    """
    if name not in (*PATHS, *FILE_OR_VALUE):
        return value
    return map_texts(name, value, lambda text: _absolute(name, text, folder, place))


def _absolute(name: str, text: str, folder: Path, place: str) -> str:
    is_relative = not os.path.isabs(os.path.expanduser(text)) and _SCHEME.match(text) is None
    if not text.strip() or text in _NOT_PATHS.get(name, ()) or not is_relative:
        return text
    found, column = os.path.abspath(folder / text), ""
    if name == "vary":
        path, _, column = text.partition("#")
        found, column = os.path.abspath(folder / path), text[len(path) :]
        text = path
    here = os.path.abspath(text)
    if found != here and not _exists(found) and _exists(here) and not (name == "output" and not _is_output(here)):
        raise RequestError(
            f"{place}{name} {show_uri(text)} is relative to the job file, where it does not exist; {here} in the "
            f"working directory does: write {os.path.relpath(here, folder)} or the absolute path"
        )
    return found + column


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path) or (
            glob.has_magic(path) and next(glob.iglob(path, recursive=True), None) is not None
        )
    except (OSError, ValueError):
        return False


def _is_output(path: str) -> bool:
    return os.path.isdir(os.path.join(path, "_tirazh"))
