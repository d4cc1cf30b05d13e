"""Prompt settings as candidates of the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.tuning.metrics import Scores, value_of
from tirazh.pipeline.tuning.settings import Metric
from tirazh.pipeline.tuning.space import PromptChoice, ScoreChoice

Ints = NDArray[np.int64]


class PromptScorer(Protocol):
    """The labelled rows with one prompt setting: their prompts, and what the engine returned for them.

    `row_tokens` are the tokens that the model reads for each row of the labelled file, int64 [N], without the shared
    prefix; `prefix_tokens` those of the prefix, which it reads once for each call of `run`; `start_tokens` those of
    content-free texts and the end of the template, which it reads in the first call. Without `has_content_free` there
    is no contextual calibration: the template has nothing but the text, or every row has examples of its own.
    """

    @property
    def row_tokens(self) -> Ints: ...

    @property
    def prefix_tokens(self) -> int: ...

    @property
    def start_tokens(self) -> int: ...

    @property
    def has_content_free(self) -> bool: ...

    def run(self, rows: Ints) -> None:
        """Let the engine score the rows that it has not scored yet."""

    def scores(self, choice: ScoreChoice, rows: Ints) -> Scores:
        """The scores of all labels for rows that were run, natural logarithms, float64 [n, L]; NaN for a row with an
        error. A batch calibration is that of `rows`."""


def tokens_of(scorer: PromptScorer, rows: Ints) -> int:
    """The tokens of one call of `run` with these rows, after the first call."""
    return scorer.prefix_tokens + int(scorer.row_tokens[rows].sum())


@dataclass(frozen=True, kw_only=True)
class SearchCandidate:
    """A prompt setting on the search rows; the candidate of `halving.halve`. `gold` are the labels of `rows`."""

    prompt: PromptChoice
    scorer: PromptScorer
    rows: Ints
    gold: Ints
    choices: Sequence[ScoreChoice]
    metric: Metric

    def cost(self, start: int, stop: int) -> int:
        if stop <= start:
            return 0
        tokens = tokens_of(self.scorer, self.rows[start:stop])
        return tokens + (0 if start else self.scorer.start_tokens)

    def run(self, stop: int) -> None:
        self.scorer.run(self.rows[:stop])

    def values(self, stop: int) -> list[float]:
        return [self.value(choice, stop) for choice in self.choices]

    def value(self, choice: ScoreChoice, stop: int) -> float:
        """The figure of one variant on the first `stop` rows; higher is better."""
        return value_of(self.metric, self.scorer.scores(choice, self.rows[:stop]), self.gold[:stop])
