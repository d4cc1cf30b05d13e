"""What a replica is asked and what it answers: plain frozen dataclasses that cross processes. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tirazh.errors import RequestError

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Applied in the original's order:
    repetition penalty and n-gram ban, temperature, top_k, top_p, draw. Temperature 0 is greedy."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()

    @property
    def reads_history(self) -> bool:
        """Whether a token's choice depends on which tokens came before, besides the logits."""
        return self.repetition_penalty != 1.0 or self.no_repeat_ngram_size > 0

    def __post_init__(self) -> None:
        checks = (
            (self.max_new_tokens >= 1, "max_new_tokens must be at least 1", self.max_new_tokens),
            (0 <= self.temperature < float("inf"), "temperature must be 0 or more", self.temperature),
            (self.top_k >= 0, "top_k must be 0 (off) or more", self.top_k),
            (0 <= self.top_p <= 1, "top_p must be between 0 and 1", self.top_p),
            (
                0 < self.repetition_penalty < float("inf"),
                "repetition_penalty must be above 0",
                self.repetition_penalty,
            ),
            (
                self.no_repeat_ngram_size >= 0,
                "no_repeat_ngram_size must be 0 (off) or more",
                self.no_repeat_ngram_size,
            ),
        )
        for is_good, rule, value in checks:
            if not is_good:
                raise RequestError(f"{rule}, not {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRequest:
    """One completion to make. `seed` (64 bits, from job seed, input row and sample) fixes its randomness."""

    prompt_token_ids: Sequence[int]
    sampling: SamplingParams
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """One prompt whose continuation by each of the job's labels is to be scored."""

    prompt_token_ids: Sequence[int]


Request = GenerateRequest | ScoreRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """`token_ids` are the new tokens, without the end token; `text_end` is where a stop string cuts the decoded
    text (characters), None when no stop string was met. `error` is set when the row could not be run."""

    token_ids: Sequence[int]
    finish_reason: FinishReason
    text_end: int | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScores:
    """`logprobs[i]` = natural log of P(label i's tokens | prompt), summed over its tokens."""

    logprobs: Sequence[float]
    error: str | None = None


Result = Completion | LabelScores


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineJob:
    """What all requests of a job share: the tokens every prompt (or nearly every one) begins with, computed and
    kept once, and the labels' tokens for scoring. A prompt that does not begin with the prefix still runs."""

    prefix_token_ids: tuple[int, ...] = ()
    labels: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCounters:
    """Totals since the engine started."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    finished: int = 0
    steps: int = 0
