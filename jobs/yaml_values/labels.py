"""Reads labels from a comma-separated string, a list, a mapping, or a YAML file with one of these."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.errors import RequestError
from tirazh.jobs.yaml_values.yaml_text import load_yaml, read_text

FILE_SUFFIXES = (".yaml", ".yml", ".json")


def read_labels(value: Any, *, place: str = "") -> dict[str, str]:
    """Return `{label: words that the model continues with}`; the words default to the label itself.

    Raises RequestError for a file that cannot be read and for labels that are neither strings nor
    integers.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return _from_file(value, place) if value.endswith(FILE_SUFFIXES) else _from_commas(value, place)
    if isinstance(value, Mapping):
        named = {_text(label, place): words for label, words in value.items()}
        return {label: label if words is None else _text(words, place) for label, words in named.items()}
    if isinstance(value, list | tuple):
        return _from_list([_text(label, place) for label in value], place)
    raise RequestError(f"{place}labels must be a list, a mapping or the path of a YAML file, not {value!r}")


def _from_commas(text: str, place: str) -> dict[str, str]:
    return _from_list([label.strip() for label in text.split(",") if label.strip()], place)


def _from_list(labels: list[str], place: str) -> dict[str, str]:
    twice = next((label for label, count in Counter(labels).items() if count > 1), None)
    if twice is not None:
        raise RequestError(f"{place}labels names {twice!r} twice")
    return {label: label for label in labels}


def _from_file(path: str, place: str) -> dict[str, str]:
    value, _ = load_yaml(read_text(Path(path), what="labels file"), name=path)
    if not isinstance(value, list | dict):
        raise RequestError(f"labels file {path} must hold a list of labels or a mapping {{label: words}}")
    return read_labels(value, place=f"labels file {path}: ")


def _text(value: Any, place: str) -> str:
    if isinstance(value, int | str) and not isinstance(value, bool):
        return str(value)
    raise RequestError(f"{place}labels must be strings, not {value!r}; put it in quotes")
