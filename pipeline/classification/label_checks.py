"""Checks of a job's labels: names and words that a reader, or a model, could not tell apart are refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from tirazh.errors import RequestError
from tirazh.pipeline.classification.labels import parse_labels
from tirazh.pipeline.label_levels import LEVEL, levels_above
from tirazh.pipeline.settings import check_two_labels

# Characters that are not seen: zero-width space and joiner, soft hyphen, byte order mark.
_UNSEEN = dict.fromkeys(map(ord, "\u200b\u2060\u00ad\ufeff"))


def check_labels(labels: Mapping[str, Any], *, flag: str = "--labels") -> None:
    """Raise RequestError for fewer than two labels, an empty label or empty words, words with a line break
    inside, a name with an empty level or one that is also a level of another, and for names or words that are equal
    except for their form: Unicode normalisation (NFKC), white space, or characters that are not seen."""
    check_two_labels(labels)
    parsed = parse_labels(labels, flag=flag)
    for label in parsed:
        for words in label.candidates:
            if not _level(label.name) or not _level(words):
                raise RequestError(f"{flag} contains an empty label or empty words ({label.name!r}: {words!r})")
            if len(words.strip().splitlines()) > 1:
                raise RequestError(
                    f"{flag}: the words of {label.name!r} contain a line break, which ends a label; write them on one "
                    "line"
                )
    _refuse_equal(((label.name, label.name) for label in parsed), what="name", flag=flag)
    _refuse_equal(((label.name, words) for label in parsed for words in label.candidates), what="words", flag=flag)
    _check_levels([label.name for label in parsed], flag)


def _check_levels(names: list[str], flag: str) -> None:
    known = set(names)
    for name, levels in levels_above(names).items():
        if levels and not all(map(_level, name.split(LEVEL))):
            raise RequestError(f"{flag}: the name {name!r} has an empty level; write it as a/b")
        for above in levels:
            if above in known:
                raise RequestError(
                    f"{flag} has {above!r} and {name!r} below it; give rows of {above!r} alone a label of their own, "
                    f"such as {above + LEVEL + 'other'!r}"
                )


def _refuse_equal(labels: Iterable[tuple[str, str]], *, what: str, flag: str) -> None:
    first: dict[str, tuple[str, str]] = {}
    for label, text in labels:
        known = _level(text) in first
        other, other_text = first.setdefault(_level(text), (label, text))
        if not known:
            continue
        if other_text.strip() == text.strip() and what == "words":
            of = f"more than one label, {other!r} and {label!r}" if other != label else f"{label!r} twice"
            raise RequestError(f"{flag} uses the words {text.strip()!r} for {of}; give each label its own words")
        raise RequestError(
            f"{flag}: the {what} {other_text!a} and {text!a} look the same; they differ only in Unicode "
            "form or white space. Keep one of them"
        )


def _level(text: str) -> str:
    """A text without what a reader does not see: NFKC, single spaces, no unseen characters."""
    return " ".join(unicodedata.normalize("NFKC", text.translate(_UNSEEN)).split())
