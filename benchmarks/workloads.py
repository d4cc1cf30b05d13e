"""Generate the workloads: seeded random rows with the lengths that batch jobs have.


ragged   256 prompts of 16 to 512 tokens (log-uniform), 8 to 128 new tokens each
uniform  64 prompts of 128 tokens, 32 new tokens
labels   512 rows of 80 to 200 tokens behind one prefix of 1,200; 10 labels of 1 to 4 tokens
long     32 prompts of 1,500 tokens, 256 new tokens
small    8 prompts as in ragged, and small-32 as many as its name says: a preview, or the end of a job
samples  8 samples of each of 16 prompts of 300 tokens, 32 new tokens
prefixes 160 prompts behind 20 prefixes of 400 tokens, with 16 to 48 tokens of their own; 32 new tokens

The tiny shape uses a quarter of these token counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from benchmarks.model_under_test import Shape

Tokens = tuple[int, ...]
_LABEL_LENGTHS = (1, 1, 2, 2, 2, 3, 3, 3, 4, 4)


@dataclass(frozen=True, slots=True)
class Row:
    """`prompt` includes the workload's shared prefix; exactly `num_new` tokens are generated (0 for labels)."""

    prompt: Tokens
    num_new: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The rows of one workload, with their shared prefix and labels where it scores labels."""

    name: str
    kind: Literal["generate", "labels"]
    rows: tuple[Row, ...]
    prefix: Tokens = ()
    labels: tuple[Tokens, ...] = ()
    group: int = 1  # rows, one behind another, whose prompts begin with the same tokens

    @property
    def num_new(self) -> int:
        """New tokens of all rows."""
        return sum(row.num_new for row in self.rows)

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence, with its completion or label."""
        depth = max(map(len, self.labels), default=0)
        return max(len(row.prompt) + row.num_new for row in self.rows) + depth

    def sample(self, num_rows: int) -> Workload:
        """Return `num_rows` rows spread evenly over the lengths, so that the sample keeps the proportions; of rows in
        groups, whole groups, at least one."""
        if num_rows >= len(self.rows):
            return self
        groups = [self.rows[first : first + self.group] for first in range(0, len(self.rows), self.group)]
        groups.sort(key=lambda rows: (len(rows[0].prompt) + rows[0].num_new, rows[0].num_new, rows[0].prompt))
        count = max(1, num_rows // self.group)
        middle = (np.arange(count) + 0.5) * len(groups) / count
        return replace(self, rows=tuple(row for index in middle for row in groups[int(index)]))


def build_workload(name: str, shape: Shape, *, num_rows: int | None = None) -> Workload:
    """Build the workload of that name in the shape's vocabulary, with `num_rows` rows or its own number."""
    make, usual = WORKLOADS[name]
    generator = np.random.default_rng(sum(name.encode()))
    return make(_Words(generator, shape), num_rows or usual)


class _Words:
    """Generator of random tokens and lengths for one workload."""

    def __init__(self, generator: np.random.Generator, shape: Shape) -> None:
        self.generator, self.vocab_size, self.divisor = generator, shape.vocab_size, shape.token_divisor

    def tokens(self, length: int) -> Tokens:
        return tuple(self.generator.integers(0, self.vocab_size, length).tolist())

    def lengths(self, low: int, high: int, count: int) -> list[int]:
        low, high = self.scaled(low), self.scaled(high)
        sampled: list[int] = self.generator.integers(low, high + 1, count).tolist()
        return sampled

    def log_lengths(self, low: int, high: int, count: int) -> list[int]:
        low, high = self.scaled(low), self.scaled(high)
        uniform = np.exp(self.generator.uniform(np.log(low), np.log(high), count))
        sampled: list[int] = np.rint(uniform).astype(int).tolist()
        return sampled

    def scaled(self, length: int) -> int:
        return max(1, length // self.divisor)


def _ragged(name: str) -> Callable[[_Words, int], Workload]:
    def make(words: _Words, num_rows: int) -> Workload:
        lengths, new = words.log_lengths(16, 512, num_rows), words.lengths(8, 128, num_rows)
        rows = (Row(words.tokens(length), num_new) for length, num_new in zip(lengths, new, strict=True))
        return Workload(name=name, kind="generate", rows=tuple(rows))

    return make


def _same_length(name: str, prompt: int, new: int) -> Callable[[_Words, int], Workload]:
    def make(words: _Words, num_rows: int) -> Workload:
        rows = (Row(words.tokens(words.scaled(prompt)), words.scaled(new)) for _ in range(num_rows))
        return Workload(name=name, kind="generate", rows=tuple(rows))

    return make


def _labels(words: _Words, num_rows: int) -> Workload:
    prefix = words.tokens(words.scaled(1200))
    rows = (Row(prefix + words.tokens(length)) for length in words.lengths(80, 200, num_rows))
    labels = _distinct_labels(words, _LABEL_LENGTHS)
    return Workload(name="labels", kind="labels", rows=tuple(rows), prefix=prefix, labels=labels)


def _samples(words: _Words, num_rows: int) -> Workload:
    group = 8
    prompts = [words.tokens(words.scaled(300)) for _ in range(-(-num_rows // group))]
    rows = [Row(prompt, words.scaled(32)) for prompt in prompts for _ in range(group)]
    return Workload(name="samples", kind="generate", rows=tuple(rows[:num_rows]), group=group)


def _prefixes(words: _Words, num_rows: int) -> Workload:
    group = 8
    prefixes = [words.tokens(words.scaled(400)) for _ in range(-(-num_rows // group))]
    firsts = [prefix for prefix in prefixes for _ in range(group)][:num_rows]
    tails = (words.tokens(length) for length in words.lengths(16, 48, num_rows))
    rows = [Row(first + tail, words.scaled(32)) for first, tail in zip(firsts, tails, strict=True)]
    return Workload(name="prefixes", kind="generate", rows=tuple(rows), group=group)


def _distinct_labels(words: _Words, lengths: Sequence[int]) -> tuple[Tokens, ...]:
    """Return labels with different first tokens, so that no beginning is shared."""
    firsts = words.generator.choice(words.vocab_size, len(lengths), replace=False).tolist()
    return tuple((first, *words.tokens(length - 1)) for first, length in zip(firsts, lengths, strict=True))


# For the chart; token counts are those of every shape but the tiny one.
DESCRIPTIONS = {
    "ragged": "prompts of 16 to 512 tokens, 8 to 128 new tokens each",
    "uniform": "prompts of 128 tokens, 32 new tokens each",
    "labels": "texts of 80 to 200 tokens behind 1,200 shared ones, 10 labels",
    "long": "prompts of 1,500 tokens, 256 new tokens each",
    "small": "prompts of 16 to 512 tokens, 8 to 128 new tokens each",
    "small-32": "prompts of 16 to 512 tokens, 8 to 128 new tokens each",
    "samples": "8 samples of each prompt of 300 tokens, 32 new tokens each",
    "prefixes": "20 prefixes of 400 tokens, each with 8 prompts behind it, 32 new tokens each",
}
WORKLOADS: dict[str, tuple[Callable[[_Words, int], Workload], int]] = {
    "ragged": (_ragged("ragged"), 256),
    "uniform": (_same_length("uniform", 128, 32), 64),
    "labels": (_labels, 512),
    "long": (_same_length("long", 1500, 256), 32),
    "small": (_ragged("small"), 8),
    "small-32": (_ragged("small-32"), 32),
    "samples": (_samples, 128),
    "prefixes": (_prefixes, 160),
}
