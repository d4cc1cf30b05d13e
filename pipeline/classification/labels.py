"""The labels of a job: a name, the words that the model scores, other words for the same label, and a description."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.label_levels import LEVEL, levels_above

_KEYS = ("words", "aliases", "description")


@dataclass(frozen=True, slots=True)
class Label:
    """A label. The model scores `words` and each of `aliases`; the probabilities of all of them add up.

    A template reads `name`, `words` and `description` of every label from its variable `labels`.
    """

    name: str
    words: str
    aliases: tuple[str, ...] = ()
    description: str | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """All texts that the model scores for this label, `words` first."""
        return (self.words, *self.aliases)


def default_words(names: Collection[str]) -> dict[str, str]:
    """Return the words of labels without words of their own: the name, without the levels above it."""
    above = levels_above(names)
    return {name: name[len(above[name][-1]) + len(LEVEL) :] if above[name] else name for name in names}


def parse_labels(labels: Mapping[str, Any], *, flag: str = "--labels") -> tuple[Label, ...]:
    """Return the labels of a setting: `{name: words}`, `{name: [words, alias, ...]}`, or
    `{name: {words: ..., aliases: [...], description: ...}}`. Raises RequestError for other values."""
    words = default_words(labels)
    return tuple(_parse(name, value, words[name], flag) for name, value in labels.items())


def words_of(labels: Mapping[str, Any]) -> dict[str, str]:
    """Return `{name: words}`, without aliases and descriptions. Raises RequestError as `parse_labels`."""
    return {label.name: label.words for label in parse_labels(labels)}


def candidates_of(labels: Sequence[Label]) -> tuple[tuple[int, str], ...]:
    """Return (index of the label, text to score) of every candidate, in the order of the labels."""
    return tuple((index, text) for index, label in enumerate(labels) for text in label.candidates)


def _parse(name: str, value: Any, default: str, flag: str) -> Label:
    if value is None or isinstance(value, str):
        return Label(name, default if value is None else value)
    if isinstance(value, list | tuple):
        first, *aliases = _texts(name, value, flag)
        return Label(name, first, tuple(aliases))
    if not isinstance(value, Mapping):
        raise RequestError(f"{flag}: {name!r} must have words, a list of words or a mapping, not {value!r}")
    for key in value:
        if key not in _KEYS:
            raise RequestError(
                f"{flag}: {name!r} has the key {key!r}; a label has {', '.join(_KEYS)}{did_you_mean(str(key), _KEYS)}"
            )
    words, description = value.get("words"), value.get("description")
    head = [default] if words is None else _texts(name, words, flag)
    if description is not None and not isinstance(description, str):
        raise RequestError(f"{flag}: the description of {name!r} must be a text, not {description!r}")
    return Label(name, head[0], (*head[1:], *_texts(name, value.get("aliases") or (), flag)), description)


def _texts(name: str, value: Any, flag: str) -> list[str]:
    values = [value] if isinstance(value, str | int) else list(value) if isinstance(value, list | tuple) else None
    if values is None or not all(isinstance(each, str | int) and not isinstance(each, bool) for each in values):
        raise RequestError(f"{flag}: the words of {name!r} must be texts, not {value!r}")
    if isinstance(value, list) and not values:
        raise RequestError(f"{flag}: {name!r} has an empty list of words")
    return [str(each) for each in values]
