"""Requests to a replica and their results: plain frozen dataclasses that cross processes. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tirazh.errors import RequestError

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are sampled, applied in the order of the original ru-gpts code: repetition penalty
    and n-gram ban, temperature, top_k, top_p (nucleus), sampling. Temperature 0 is greedy. Raises
    RequestError for values out of range."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()

    @property
    def reads_history(self) -> bool:
        """Whether the choice of a token depends on the earlier tokens directly, not only through
        the logits."""
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


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a completion must be (constrained decoding): JSON that follows the JSON Schema `text`, a match of the
    regular expression `text`, or one of the texts in the JSON list `text`."""

    kind: Literal["schema", "regex", "choices"]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRequest:
    """A completion to generate. `seed` (64 bits, derived from job seed, input row and sample) fixes
    its randomness."""

    prompt_token_ids: Sequence[int]
    sampling: SamplingParams
    seed: int
    constraint: Constraint | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """A prompt for which the log-likelihood of each of the job's labels is computed."""

    prompt_token_ids: Sequence[int]


Request = GenerateRequest | ScoreRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """`token_ids` are the new tokens, without the end token. `text_end` is the length in characters
    to which a stop string cuts the decoded text; None without a stop string. `error` says why the
    row could not be run, or, where the finish reason is not "error", what is wrong with the completion."""

    token_ids: Sequence[int]
    finish_reason: FinishReason
    text_end: int | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScores:
    """`logprobs[i]`: natural logarithm of P(label i's tokens | prompt), summed over its tokens."""

    logprobs: Sequence[float]
    error: str | None = None


Result = Completion | LabelScores


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineJob:
    """What all requests of a job share: the tokens with which (nearly) every prompt begins, whose
    keys and values are computed and stored once, and the tokens of the labels. A prompt that does
    not begin with the prefix runs too. With `label_ends` a label's score holds one term more: that one
    of these tokens follows it."""

    prefix_token_ids: tuple[int, ...] = ()
    labels: tuple[tuple[int, ...], ...] = ()
    label_ends: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCounters:
    """Totals since the engine started."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    finished: int = 0
    steps: int = 0
