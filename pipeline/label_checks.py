"""Checks of a job's labels: names and words that a reader, or a model, could not tell apart are refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from tirazh.errors import RequestError
from tirazh.pipeline.settings import check_two_labels

# Characters that are not seen: zero-width space and joiner, soft hyphen, byte order mark.
_UNSEEN = dict.fromkeys(map(ord, "\u200b\u2060\u00ad\ufeff"))


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise RequestError for fewer than two labels, an empty label or empty words, words with a line break
    inside, and for names or words that are equal except for their form: Unicode normalisation (NFKC), white
    space, or characters that are not seen."""
    check_two_labels(labels)
    for label, words in labels.items():
        if not _level(label) or not _level(words):
            raise RequestError(f"--labels contains an empty label or empty words ({label!r}: {words!r})")
        if len(words.strip().splitlines()) > 1:
            raise RequestError(
                f"--labels: the words of {label!r} contain a line break, which ends a label; write them on one line"
            )
    _refuse_equal(((label, label) for label in labels), what="name")
    _refuse_equal(labels.items(), what="words")


def _refuse_equal(labels: Iterable[tuple[str, str]], *, what: str) -> None:
    first: dict[str, tuple[str, str]] = {}
    for label, text in labels:
        other, other_text = first.setdefault(_level(text), (label, text))
        if other == label:
            continue
        if other_text.strip() == text.strip() and what == "words":
            raise RequestError(
                f"--labels uses the words {text.strip()!r} for more than one label, {other!r} and {label!r}; give each "
                "label its own words"
            )
        raise RequestError(
            f"--labels: the {what} {other_text!a} and {text!a} look the same; they differ only in Unicode "
            "form or white space. Keep one of them"
        )


def _level(text: str) -> str:
    """A text without what a reader does not see: NFKC, single spaces, no unseen characters."""
    return " ".join(unicodedata.normalize("NFKC", text.translate(_UNSEEN)).split())
