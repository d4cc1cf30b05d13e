"""The requests of classify: those of rows, and those that every replica scores once at its start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tirazh.errors import RequestError
from tirazh.model.requests import LabelScores, Result, ScoreRequest
from tirazh.pipeline.classification.scores import Corrections, LabelLayout, label_logprobs, label_priors

Ids = Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRequests:
    """Which prompts are scored.

    Job o of the engine has order o of the few-shot examples. With several orders `heads[o]` are the tokens with which
    its prompts begin, and a row's own prompt is that of order 0. `premise` is the prompt of the domain premise, empty
    unless `scoring` is pmi. `prior_prompts` are the prompts, of order 0, of the texts that give the priors.
    """

    layout: LabelLayout
    heads: tuple[tuple[int, ...], ...] = ((),)
    premise: tuple[int, ...] = ()
    prior_prompts: tuple[tuple[int, ...], ...] = ()

    def of_prompts(self, prompts: Iterable[Ids]) -> list[ScoreRequest]:
        """The requests of prompts of order 0: prompts in order, the orders of a prompt together."""
        if self.layout.orders == 1:
            return [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts]
        first = len(self.heads[0])
        return [
            ScoreRequest(prompt_token_ids=[*head, *prompt[first:]], job=order)
            for prompt in prompts
            for order, head in enumerate(self.heads)
        ]

    def at_start(self) -> list[ScoreRequest]:
        """The requests that are scored once: the premise, if there is one, and the texts of the priors."""
        premise = [ScoreRequest(prompt_token_ids=self.premise)] if self.premise else []
        return premise + self.of_prompts(self.prior_prompts)

    def corrections(self, results: Sequence[Result]) -> Corrections:
        """What follows from the results of `at_start`. Raises RequestError for a prompt that could not be scored."""
        for result in results:
            if not isinstance(result, LabelScores) or result.error is not None:
                what = "the premise of --scoring pmi or a text of --calibrate"
                raise RequestError(f"{what} could not be scored: {getattr(result, 'error', '')}")
        scores = [result.logprobs for result in results if isinstance(result, LabelScores)]
        premise = np.array(scores.pop(0), np.float64) if self.premise else None
        priors = label_priors(self._by_order(scores), self.layout, premise) if scores else None
        return Corrections(premise, priors)

    def logprobs(self, answers: Sequence[Sequence[LabelScores]], corrections: Corrections) -> NDArray[np.float64]:
        """The log-probabilities of the labels, shape [rows, labels], of the results of each row."""
        scores = [result.logprobs for answer in answers for result in answer]
        return label_logprobs(self._by_order(scores), self.layout, corrections)

    def _by_order(self, scores: Sequence[Any]) -> NDArray[np.float64]:
        """Scores of prompts, the orders of a prompt together, as [orders, prompts, texts]."""
        by_prompt = np.array(scores, np.float64).reshape(-1, self.layout.orders, len(scores[0]) if scores else 1)
        return by_prompt.transpose(1, 0, 2)
