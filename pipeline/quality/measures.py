"""What each rule computes: which texts of a slice fail it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tirazh.pipeline.quality.arguments import LANGUAGES, NGramLimit, StopWords
from tirazh.pipeline.quality.characters import (
    CYRILLIC,
    FOREIGN,
    LATIN,
    LETTER,
    SPACE,
    SYMBOL,
    UPPER,
    Characters,
    Hashes,
    Integers,
    Mask,
)
from tirazh.pipeline.quality.stop_words import stop_words
from tirazh.pipeline.quality.words import NGrams, Words, is_in, share

Shares = npt.NDArray[np.float64]

# A Cyrillic text with more of its letters from other Slavic alphabets than this is not Russian; a Latin text with more
# letters beyond A–Z is not English. One foreign name in a title stays below.
_FOREIGN_IN_CYRILLIC, _FOREIGN_IN_LATIN = 0.03, 0.08
# Russian news is full of Latin names, English news has hardly any Cyrillic ones. Half of the letters are Cyrillic in
# 97.6 % of the first four words of N+1's articles, a quarter in 99.5 %.
_CYRILLIC_IN_RUSSIAN, _LATIN_IN_ENGLISH = 0.25, 0.5
_CLOSERS = " \t\n\"'»”“’)]}*_"
_TERMINALS = (".", "!", "?", "…", "。", "！", "？")
_PLACEHOLDER = (
    r"lorem ipsum|dolor sit amet|your (?:text|name|title) here|"
    r"\[\s*(?:your |insert |имя|фамилия|название|дата|город|вставьте|ваш|name|title|date|city|company)[^\]\n]{0,60}\]|"
    r"<\s*(?:имя|название|дата|город|name|title|date|city|company|insert [^>\n]{1,40})\s*>|"
    r"\{\{[^}\n]{0,60}\}\}|текст (?:статьи|новости) здесь|_{4,}|\bfoo bar\b"
)


class Sample:
    """The texts that one rule judges, with their words; `prompts` makes those of the prompts on demand."""

    def __init__(self, texts: list[str], prompts: Callable[[], Words]) -> None:
        self.characters = Characters(texts)
        self.prompts = prompts

    @cached_property
    def words(self) -> Words:
        return Words(self.characters)

    @cached_property
    def letters(self) -> Integers:
        return self.characters.count(LETTER)


def fails(name: str, value: Any, sample: Sample) -> Mask:
    """Whether each text of `sample` fails the rule `name` of `rules.RULES` (bool [rows])."""
    return _MEASURES[name](sample, value)


def too_many_bits(limit: float, logprobs: pa.ChunkedArray[Any], texts: list[str]) -> Mask:
    """Whether each completion has more bits per character than `limit`.

    `logprobs` are natural logarithms of the probability of all tokens. A row without one passes.
    """
    values = np.asarray(logprobs.cast(pa.float64()).to_numpy(), np.float64)
    lengths = np.fromiter(map(len, texts), np.float64, len(texts))
    bits = -values / math.log(2) / np.maximum(lengths, 1)
    return bits > limit  # False for NaN, which stands for null


def languages_of(sample: Sample) -> npt.NDArray[np.int64]:
    """The position in `LANGUAGES` of each text's language, by its script.

    `ru`: a quarter of the letters are Cyrillic, and hardly any of those belongs to another Slavic alphabet. `en`: of
    the others, those in which half of the letters are Latin, and hardly any of those is beyond A–Z.
    `other`: everything else, texts without letters included. Bulgarian, and German with few umlauts, are missed.
    """
    characters = sample.characters
    foreign = (characters.classes & FOREIGN) != 0
    cyrillic_letters = (characters.classes & CYRILLIC) != 0
    cyrillic, latin = characters.sums(cyrillic_letters), characters.count(LATIN)
    not_russian = characters.sums(foreign & cyrillic_letters)
    not_english = characters.sums(foreign & ~cyrillic_letters)
    is_cyrillic = (cyrillic > 0) & (cyrillic >= _CYRILLIC_IN_RUSSIAN * sample.letters)
    is_russian = is_cyrillic & (not_russian <= _FOREIGN_IN_CYRILLIC * cyrillic)
    is_latin = ~is_cyrillic & (latin > _LATIN_IN_ENGLISH * sample.letters)
    is_english = is_latin & (not_english <= _FOREIGN_IN_LATIN * latin)
    order = {name: position for position, name in enumerate(LANGUAGES)}
    return np.where(is_russian, order["ru"], np.where(is_english, order["en"], order["other"]))


def repeated_share(words: Words, size: int) -> Shares:
    """The share of each text's n-grams that occurred before in the same text (float64 [rows])."""
    grams = words.ngrams(size)
    keys = np.sort(grams.keys)
    again = keys[1:][keys[1:] == keys[:-1]]
    return share(_per_row(again, words.num_texts), _counts(grams, words.num_texts))


def top_share(words: Words, size: int) -> Shares:
    """The share of each text's n-grams that are its most frequent one, 0 if none occurs twice (float64 [rows])."""
    grams = words.ngrams(size)
    keys, counts = np.unique(grams.keys, return_counts=True)
    top = np.zeros(words.num_texts, np.int64)
    several = counts > 1
    np.maximum.at(top, (keys[several] >> np.uint64(48)).astype(np.int64), counts[several])
    return share(top, _counts(grams, words.num_texts))


def copied_share(words: Words, prompts: Words, size: int) -> Shares:
    """The share of each text's n-grams that its prompt contains (float64 [rows])."""
    grams = words.ngrams(size)
    found = is_in(grams.keys, np.sort(prompts.ngrams(size).keys))
    return share(np.bincount(grams.rows[found], minlength=words.num_texts), _counts(grams, words.num_texts))


def _per_row(keys: Hashes, rows: int) -> Integers:
    return np.bincount((keys >> np.uint64(48)).astype(np.int64), minlength=rows)


def _counts(grams: NGrams, rows: int) -> Integers:
    return np.bincount(grams.rows, minlength=rows)


def _lines_share(text: str) -> float:
    """The share of a text's lines that occurred before in it."""
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def _mean_word_length(sample: Sample, value: tuple[float, float]) -> Mask:
    mean = share(sample.words.letters, sample.words.counts)
    return (mean < value[0]) | (mean > value[1])


def _wrong_language(sample: Sample, value: tuple[str, ...]) -> Mask:
    return ~np.isin(languages_of(sample), [LANGUAGES.index(name) for name in value])


def _few_stop_words(sample: Sample, value: StopWords) -> Mask:
    is_judged = sample.words.counts >= max(value.from_words, 1)
    return is_judged & (sample.words.share_in(stop_words(value.language)) < value.share)


def _many_repeated(sample: Sample, value: NGramLimit) -> Mask:
    return repeated_share(sample.words, value.n) > value.share


def _frequent_top(sample: Sample, value: NGramLimit) -> Mask:
    return top_share(sample.words, value.n) > value.share


def _copied(sample: Sample, value: NGramLimit) -> Mask:
    return copied_share(sample.words, sample.prompts(), value.n) > value.share


def _unpunctuated(sample: Sample, value: bool) -> Mask:
    return _flags(not text.rstrip(_CLOSERS).endswith(_TERMINALS) for text in sample.characters.texts)


def _has_placeholder(sample: Sample, value: bool) -> Mask:
    texts = pa.array(sample.characters.texts, pa.large_string())
    found = pc.match_substring_regex(texts, _PLACEHOLDER, ignore_case=True)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def _has_repeated_lines(sample: Sample, value: float) -> Mask:
    return _flags("\n" in text and _lines_share(text) > value for text in sample.characters.texts)


def _many_symbols(sample: Sample, value: float) -> Mask:
    return share(sample.characters.count(SYMBOL), sample.characters.lengths) > value


def _few_letters(sample: Sample, value: float) -> Mask:
    visible = sample.characters.lengths - sample.characters.count(SPACE)
    return share(visible - sample.letters, visible) > value


def _flags(values: Any) -> Mask:
    return np.fromiter(values, np.bool_)


_MEASURES: dict[str, Callable[[Sample, Any], Mask]] = {
    "min_chars": lambda sample, value: sample.characters.lengths < value,
    "max_chars": lambda sample, value: sample.characters.lengths > value,
    "min_words": lambda sample, value: sample.words.counts < value,
    "max_words": lambda sample, value: sample.words.counts > value,
    "mean_word_length": _mean_word_length,
    "language": _wrong_language,
    "min_stop_words": _few_stop_words,
    "max_uppercase": lambda sample, value: share(sample.characters.count(UPPER), sample.letters) > value,
    "max_symbols": _many_symbols,
    "max_non_letters": _few_letters,
    "max_duplicate_lines": _has_repeated_lines,
    "max_repeated_ngrams": _many_repeated,
    "max_top_ngram": _frequent_top,
    "max_prompt_copy": _copied,
    "ends_with_punctuation": _unpunctuated,
    "no_placeholder": _has_placeholder,
}
