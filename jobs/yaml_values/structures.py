"""Reads settings whose value is any JSON value: a Python object, YAML text, or a YAML or JSON file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.errors import RequestError
from tirazh.jobs.yaml_values.labels import FILE_SUFFIXES
from tirazh.jobs.yaml_values.yaml_text import load_yaml, read_text


def read_structure(name: str, value: Any, *, place: str = "") -> Any:
    """Return the value with dictionaries, lists, strings, numbers, booleans and None only.

    A string is the path of a .yaml, .yml or .json file, or else YAML text. Raises RequestError for text that is
    not YAML and for a value that JSON cannot hold.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        if value.endswith(FILE_SUFFIXES):
            text, source = read_text(Path(value), what=f"{name} file"), value
        else:
            text, source = value, f"{place}{name}"
        value, _ = load_yaml(text, name=source)
    return _plain(name, value, place)


def _plain(name: str, value: Any, place: str) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {_key(name, key, place): _plain(name, item, place) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, item, place) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise RequestError(f"{place}{name} holds {value!r}, which is no text, number, list or mapping")


def _key(name: str, key: Any, place: str) -> str:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return str(key)
    raise RequestError(f"{place}{name} has the key {key!r}; put it in quotes")
