"""The characters of many texts as arrays, with the Unicode classes that the filters count."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

LETTER, DIGIT, WORD, UPPER, SPACE, SYMBOL, CYRILLIC, LATIN, FOREIGN = (1 << bit for bit in range(9))
_BMP = 1 << 16
# Letters of Slavic languages that Russian does not have.
_NOT_RUSSIAN = frozenset("іїєґўјњљћђѓќџѕѐѝІЇЄҐЎЈЊЉЋЂЃЌЏЅЀЍ")
_PUNCTUATION = frozenset(".,!?;:…-‐‑–—−«»„“”‘’\"'()[]/%№&+")
_CYRILLIC_BLOCKS = ((0x0400, 0x052F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F))
_LATIN_BLOCKS = (
    (0x41, 0x24F),
    (0x1E00, 0x1EFF),
    (0x2C60, 0x2C7F),
    (0xA720, 0xA7FF),
    (0xFB00, 0xFB06),
    (0xFF21, 0xFF5A),
)

Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


class Characters:
    """The characters of `rows` texts, concatenated.

    `texts` are normalised (NFC) and without white space at both ends. `codes` is uint32 [characters], `starts` int64
    [rows + 1]: text i has the characters `starts[i]` to `starts[i + 1]`. Counts are int64 [rows].
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = [unicodedata.normalize("NFC", text).strip() for text in texts]
        self.lengths: Integers = np.fromiter(map(len, self.texts), np.int64, len(self.texts))
        self.starts: Integers = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])
        self.codes = np.frombuffer("".join(self.texts).encode("utf-32-le", "surrogatepass"), np.uint32)

    @cached_property
    def classes(self) -> npt.NDArray[np.uint16]:
        """The classes (bits) of every character."""
        return _look_up(_class_table(), self.codes, _class_of)

    @cached_property
    def hashes(self) -> Hashes:
        """A 64-bit hash of every character in lower case, where ё counts as е."""
        return _look_up(_hash_table(), self.codes, lambda code: int(mix(np.array([code], np.uint64))[0]))

    def count(self, classes: int) -> Integers:
        """The number of characters of each text that are in one of the classes."""
        return self.sums((self.classes & classes) != 0)

    def sums(self, flags: Mask) -> Integers:
        """Sum bool [characters] over each text."""
        totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags, dtype=np.int64)])
        summed: Integers = totals[self.starts[1:]] - totals[self.starts[:-1]]
        return summed


def mix(values: Hashes) -> Hashes:
    """Spread 64-bit values over 64 bits (the finalizer of SplitMix64, Steele et al. 2014).

    Frozen: hashes are compared between machines.
    """
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _look_up(table: npt.NDArray[Any], codes: npt.NDArray[np.uint32], compute: Any) -> npt.NDArray[Any]:
    found = table[np.minimum(codes, _BMP - 1)]
    for position in np.flatnonzero(codes >= _BMP):  # emoji and rare scripts
        found[position] = compute(int(codes[position]))
    return found


@cache
def _class_table() -> npt.NDArray[np.uint16]:
    return np.fromiter(map(_class_of, range(_BMP)), np.uint16, _BMP)


@cache
def _hash_table() -> Hashes:
    return mix(np.fromiter(map(_lower, range(_BMP)), np.uint64, _BMP))


def _lower(code: int) -> int:
    lower = chr(code).lower()
    return ord("е") if lower == "ё" else ord(lower) if len(lower) == 1 else code


def _class_of(code: int) -> int:
    character = chr(code)
    category = unicodedata.category(character)
    if character.isspace():
        return SPACE
    if category[0] == "N":
        return WORD | (DIGIT if category == "Nd" else 0)
    if category[0] == "M":  # combining marks, which belong to the letter before
        return LETTER | WORD
    if category[0] != "L":
        return 0 if character in _PUNCTUATION else SYMBOL
    script = CYRILLIC if _in(code, _CYRILLIC_BLOCKS) else LATIN if _in(code, _LATIN_BLOCKS) else 0
    foreign = FOREIGN if character in _NOT_RUSSIAN or (script == LATIN and code > 0x7F) else 0
    return LETTER | WORD | script | foreign | (UPPER if category in ("Lu", "Lt") else 0)


def _in(code: int, blocks: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in blocks)
