"""The words and the n-grams of many texts as 64-bit hashes.

A word is a run of letters, marks and digits, in lower case and with ё as е; punctuation and hyphens separate words. The
arithmetic is frozen, so hashes of two machines or two nights are comparable.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tirazh.pipeline.quality.characters import WORD, Characters, Hashes, Integers, Mask, mix

_CHARACTER_BASE = np.uint64(0x9FB21C651E98DF25)
_WORD_BASE = np.uint64(0xD6E8FEB86659FD93)
_INVERSE = np.uint64(pow(int(_CHARACTER_BASE), -1, 1 << 64))
# A key of a row's n-gram: 16 bits of the row, 48 of the hash.
_ROW_BITS, _HASH_BITS = np.uint64(48), np.uint64(16)
MAX_ROWS = 1 << 16


class NGrams(NamedTuple):
    """N-grams in the order of the texts: `rows` int64 [n-grams] and `hashes` uint64 [n-grams]."""

    rows: Integers
    hashes: Hashes

    @property
    def keys(self) -> Hashes:
        """One integer for row and n-gram (uint64), for at most `MAX_ROWS` texts.

        It depends on the row's own place in the slice, never on other texts.
        """
        return (self.rows.astype(np.uint64) << _ROW_BITS) | (self.hashes >> _HASH_BITS)


class Words:
    """The words of `rows` texts: `rows` int64 [words], `hashes` uint64 [words], `counts` int64 [rows]."""

    def __init__(self, characters: Characters) -> None:
        self.num_texts = len(characters.texts)
        starts, ends = _spans((characters.classes & WORD) != 0, characters.starts)
        self.rows: Integers = np.searchsorted(characters.starts, starts, side="right") - 1
        self.lengths: Integers = ends - starts
        self.hashes = _hash_spans(characters.hashes, starts, ends)

    @cached_property
    def counts(self) -> Integers:
        return np.bincount(self.rows, minlength=self.num_texts)

    @cached_property
    def letters(self) -> Integers:
        """The characters of each text that are in words (int64 [rows])."""
        return np.bincount(self.rows, weights=self.lengths, minlength=self.num_texts).astype(np.int64)

    def ngrams(self, size: int) -> NGrams:
        """All runs of `size` words within one text."""
        number = len(self.hashes) - size + 1
        if number <= 0:
            return NGrams(np.zeros(0, np.int64), np.zeros(0, np.uint64))
        hashes = np.zeros(number, np.uint64)
        for offset in range(size):
            hashes = hashes * _WORD_BASE + self.hashes[offset : offset + number]
        whole = self.rows[:number] == self.rows[size - 1 :]
        return NGrams(self.rows[:number][whole], mix(hashes[whole]))

    def share_in(self, words: Hashes) -> npt.NDArray[np.float64]:
        """The share of each text's words whose hash is in `words`, sorted (float64 [rows], 0 without words)."""
        found = is_in(self.hashes, words)
        return share(np.bincount(self.rows[found], minlength=self.num_texts), self.counts)


def hashes_of(words: Iterable[str]) -> Hashes:
    """The sorted hashes of single words."""
    return np.unique(Words(Characters(list(words))).hashes)


def is_in(values: Hashes, known: Hashes) -> Mask:
    """Whether each value is in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    found: Mask = known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    return found


def share(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """`part / whole`, and 0 where `whole` is 0."""
    divided: npt.NDArray[np.float64] = np.divide(part, np.maximum(whole, 1))
    return divided


def _spans(inside: Mask, text_starts: Integers) -> tuple[Integers, Integers]:
    """The first and the last (exclusive) position of every run of True that does not cross a text's start."""
    before = np.concatenate([np.zeros(1, np.bool_), inside[:-1]])
    before[text_starts[:-1][text_starts[:-1] < len(inside)]] = False
    after = np.concatenate([inside[1:], np.zeros(1, np.bool_)])
    last = text_starts[1:] - 1
    after[last[last >= 0]] = False
    return np.flatnonzero(inside & ~before), np.flatnonzero(inside & ~after) + 1


def _hash_spans(values: Hashes, starts: Integers, ends: Integers) -> Hashes:
    """A polynomial hash of each span, by prefix sums: sum of value[i]·B^i over the span, divided by B^start."""
    powers = np.cumprod(np.full(len(values), _CHARACTER_BASE, np.uint64))
    inverses = np.cumprod(np.full(len(values), _INVERSE, np.uint64))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * powers)])
    return mix((sums[ends] - sums[starts]) * inverses[starts])
