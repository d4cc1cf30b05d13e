"""The rules of `filters:`: their names and their arguments. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tirazh.errors import RequestError, did_you_mean

LANGUAGES = ("ru", "en", "other")
_MAX_NGRAM = 50
_LARGEST = 1e15


@dataclass(frozen=True, slots=True)
class NGramLimit:
    """At most `share` of the n-grams of `n` words."""

    n: int
    share: float


@dataclass(frozen=True, slots=True)
class StopWords:
    """At least `share` of the words are stop words of `language`; texts of fewer than `from_words` words pass."""

    share: float
    language: str | None
    from_words: int


def shown(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _wrong(name: str, needs: str, value: Any) -> RequestError:
    return RequestError(f"--filters: {name} needs {needs}, not {shown(value)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _count(name: str, value: Any) -> int:
    if not _is_count(value):
        raise _wrong(name, "an integer from 0 up", value)
    return int(value)


def _share(name: str, value: Any) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise _wrong(name, "a share between 0 and 1", value)
    return float(value)


def _positive(name: str, value: Any) -> float:
    if not _is_number(value) or value <= 0:
        raise _wrong(name, "a number above 0", value)
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if value is not True:
        raise _wrong(name, "true or false", value)
    return True


def _range(name: str, value: Any) -> tuple[float, float]:
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    if not is_pair or not 0 <= value[0] <= value[1]:
        raise _wrong(name, "two numbers, such as [3, 12]", value)
    return float(value[0]), float(value[1])


def _languages(name: str, value: Any) -> tuple[str, ...]:
    chosen = tuple(value) if isinstance(value, list | tuple) else (value,)
    for each in chosen:
        if each not in LANGUAGES:
            raise RequestError(
                f"--filters: {name} must be {', '.join(LANGUAGES)} or a list of them, not {shown(each)}"
                f"{did_you_mean(str(each), LANGUAGES)}"
            )
    if not chosen:
        raise _wrong(name, "at least one language", value)
    return chosen


def _ngrams(default: int) -> Callable[[str, Any], NGramLimit]:
    def parse(name: str, value: Any) -> NGramLimit:
        if not isinstance(value, Mapping):
            return NGramLimit(default, _share(name, value))
        given = _arguments(name, value, required=("share",), optional=("n",))
        n = given.get("n", default)
        if not _is_count(n) or not 1 <= n <= _MAX_NGRAM:
            raise _wrong(name, f"n from 1 to {_MAX_NGRAM}", n)
        return NGramLimit(n, _share(name, given["share"]))

    return parse


def _stop_words(name: str, value: Any) -> StopWords:
    if not isinstance(value, Mapping):
        return StopWords(_share(name, value), None, 0)
    given = _arguments(name, value, required=("share",), optional=("language", "from_words"))
    language = given.get("language")
    if language not in (None, "ru", "en"):
        raise RequestError(f"--filters: {name} has stop words of ru and en, not of {shown(language)}")
    return StopWords(_share(name, given["share"]), language, _count(f"{name}: from_words", given.get("from_words", 0)))


def _arguments(
    name: str, value: Mapping[str, Any], *, required: tuple[str, ...], optional: tuple[str, ...]
) -> Mapping[str, Any]:
    known = (*required, *optional)
    for key in value:
        if key not in known:
            close = did_you_mean(str(key), known) or f"; it has {', '.join(known)}"
            raise RequestError(f"--filters: {name} has no argument {shown(key)}{close}")
    for key in required:
        if key not in value:
            raise RequestError(f"--filters: {name} needs the argument {key}")
    return value


# Name → parser of the argument, in the order of the documentation.
RULES: dict[str, Callable[[str, Any], Any]] = {
    "valid": _flag,
    "finished": _flag,
    "min_chars": _count,
    "max_chars": _count,
    "min_words": _count,
    "max_words": _count,
    "mean_word_length": _range,
    "language": _languages,
    "min_stop_words": _stop_words,
    "max_uppercase": _share,
    "max_symbols": _share,
    "max_non_letters": _share,
    "max_duplicate_lines": _share,
    "max_repeated_ngrams": _ngrams(3),
    "max_top_ngram": _ngrams(2),
    "max_prompt_copy": _ngrams(5),
    "ends_with_punctuation": _flag,
    "no_placeholder": _flag,
    "max_bits_per_char": _positive,
}
# Rules that read columns of the completion and cannot judge another column.
OF_THE_ROW = frozenset({"valid", "finished", "max_bits_per_char"})
