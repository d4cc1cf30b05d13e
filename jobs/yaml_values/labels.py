"""Reads labels from a comma-separated string, a list, a mapping, or a YAML file with one of these."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.errors import RequestError
from tirazh.jobs.yaml_values.yaml_text import load_yaml, read_text
from tirazh.pipeline.classification.labels import default_words, parse_labels

FILE_SUFFIXES = (".yaml", ".yml", ".json")


def read_labels(value: Any, *, place: str = "") -> dict[str, Any]:
    """Return `{label: words}`, with a mapping `{words, aliases, description}` for a label that has more than words.

    The words default to the label's name, without the levels above it. Raises RequestError for a file that cannot
    be read and for labels that are neither strings nor integers.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return _from_file(value, place) if value.endswith(FILE_SUFFIXES) else _from_commas(value, place)
    if isinstance(value, Mapping):
        named = {_text(label, place): words for label, words in value.items()}
        defaults = default_words(named)
        return {label: _words(label, words, defaults[label], place) for label, words in named.items()}
    if isinstance(value, list | tuple):
        return _from_list([_text(label, place) for label in value], place)
    raise RequestError(f"{place}labels must be a list, a mapping or the path of a YAML file, not {value!r}")


def _words(name: str, value: Any, default: str, place: str) -> Any:
    if not isinstance(value, Mapping | list | tuple):
        return default if value is None else _text(value, place)
    if isinstance(value, Mapping) and value.get("words") is None:
        value = {**value, "words": default}
    (label,) = parse_labels({name: value}, flag=f"{place}labels")
    if not label.aliases and label.description is None:
        return label.words
    whole = {"words": label.words, "aliases": list(label.aliases), "description": label.description}
    return {key: item for key, item in whole.items() if item}


def _from_commas(text: str, place: str) -> dict[str, Any]:
    return _from_list([label.strip() for label in text.split(",") if label.strip()], place)


def _from_list(labels: list[str], place: str) -> dict[str, Any]:
    twice = next((label for label, count in Counter(labels).items() if count > 1), None)
    if twice is not None:
        raise RequestError(f"{place}labels names {twice!r} twice")
    return default_words(labels)


def _from_file(path: str, place: str) -> dict[str, Any]:
    value, _ = load_yaml(read_text(Path(path), what="labels file"), name=path)
    if not isinstance(value, list | dict):
        raise RequestError(f"labels file {path} must hold a list of labels or a mapping {{label: words}}")
    return read_labels(value, place=f"labels file {path}: ")


def _text(value: Any, place: str) -> str:
    if isinstance(value, int | str) and not isinstance(value, bool):
        return str(value)
    raise RequestError(f"{place}labels must be strings, not {value!r}; put it in quotes")
