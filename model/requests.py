"""Requests to a replica and their results: plain frozen dataclasses that cross processes. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tirazh.errors import RequestError

MAX_BIAS = 100.0  # as in OpenAI's API, where it amounts to a ban or a command
FinishReason = Literal["stop", "length", "error"]
Pooling = Literal["last", "mean"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are sampled. Temperature 0 is greedy. Raises RequestError for values out of range.

    The order is that of the original ru-gpts code, and where it has no such setting that of vLLM: logit
    bias, repetition penalty, frequency and presence penalty, bans (n-grams, bad words, the ends of a
    completion before `min_new_tokens`), temperature, min_p, top_k, top_p (nucleus), sampling.

    `min_p`: only tokens whose probability after temperature is at least this part of the greatest one
    (Nguyen et al. 2024). `frequency_penalty` and `presence_penalty` count the tokens of the completion so
    far, without the prompt, as OpenAI and vLLM define them; `repetition_penalty` also counts those of the
    prompt (Keskar et al. 2019, CTRL). `logit_bias`: (token id, number) pairs. `bad_words`: token
    sequences whose last token is banned where the completion ends with all before it, as in vLLM.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()

    @property
    def reads_history(self) -> bool:
        """Whether the choice of a token depends on the earlier tokens directly, not only through
        the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.no_repeat_ngram_size > 0
            or self.frequency_penalty != 0
            or self.presence_penalty != 0
            or any(len(word) > 1 for word in self.bad_words)
        )

    @property
    def edits_logits(self) -> bool:
        """Whether single logits are changed before a token is chosen."""
        return bool(self.min_new_tokens or self.logit_bias or self.bad_words) or self.reads_history

    def __post_init__(self) -> None:
        checks = (
            (self.max_new_tokens >= 1, "max_new_tokens must be at least 1", self.max_new_tokens),
            (self.min_new_tokens >= 0, "min_new_tokens must be 0 (off) or more", self.min_new_tokens),
            (
                self.min_new_tokens <= self.max_new_tokens,
                f"min_new_tokens must be at most max_new_tokens ({self.max_new_tokens})",
                self.min_new_tokens,
            ),
            (0 <= self.temperature < float("inf"), "temperature must be 0 or more", self.temperature),
            (self.top_k >= 0, "top_k must be 0 (off) or more", self.top_k),
            (0 <= self.top_p <= 1, "top_p must be between 0 and 1", self.top_p),
            (0 <= self.min_p <= 1, "min_p must be between 0 and 1", self.min_p),
            (
                0 < self.repetition_penalty < float("inf"),
                "repetition_penalty must be above 0",
                self.repetition_penalty,
            ),
            (-2 <= self.frequency_penalty <= 2, "frequency_penalty must be between -2 and 2", self.frequency_penalty),
            (-2 <= self.presence_penalty <= 2, "presence_penalty must be between -2 and 2", self.presence_penalty),
            (
                self.no_repeat_ngram_size >= 0,
                "no_repeat_ngram_size must be 0 (off) or more",
                self.no_repeat_ngram_size,
            ),
        )
        for is_good, rule, value in checks:
            if not is_good:
                raise RequestError(f"{rule}, not {value}")
        for _, bias in self.logit_bias:
            if not -MAX_BIAS <= bias <= MAX_BIAS:
                raise RequestError(f"logit_bias must hold numbers between -100 and 100, not {bias}")
        if not all(self.bad_words):
            raise RequestError("bad_words must hold texts of at least one token")


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a completion must be (constrained decoding): JSON that follows the JSON Schema `text`, a match of the
    regular expression `text`, or one of the texts in the JSON list `text`."""

    kind: Literal["schema", "regex", "choices"]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRequest:
    """A completion to generate. `seed` (64 bits, derived from job seed, input row and sample) fixes
    its randomness. `job` is the index of the request's job in the engine, here and in other requests."""

    prompt_token_ids: Sequence[int]
    sampling: SamplingParams
    seed: int
    constraint: Constraint | None = None
    job: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """A prompt for which the log-likelihood of each of the job's labels is computed."""

    prompt_token_ids: Sequence[int]
    job: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TextScoreRequest:
    """A text whose log-likelihood is computed, behind its context.

    `token_ids` are the tokens of both. The first `num_context` of them, at least one, are not scored: the
    model needs a token before the first one that it predicts.
    """

    token_ids: Sequence[int]
    num_context: int
    job: int = 0

    @property
    def prompt_token_ids(self) -> Sequence[int]:
        """The tokens that the model reads: all but the last one, behind which nothing is predicted."""
        return self.token_ids[:-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedRequest:
    """A prompt whose embedding is computed from the model's last hidden states (behind the final layer
    norm, before the output matrix).

    `pooling`: "last" is that of the prompt's last token. "mean" is the mean over the prompt's tokens; of a
    prompt that begins with the job's shared prefix, over the tokens behind the prefix, which alone are
    computed for it. So a prefix of a job that is an instruction or a beginning-of-text token is not in the mean.
    """

    prompt_token_ids: Sequence[int]
    pooling: Literal["last", "mean"] = "last"
    job: int = 0


Request = GenerateRequest | ScoreRequest | TextScoreRequest | EmbedRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """`token_ids` are the new tokens, without the end token. `text_end` is the length in characters
    to which a stop string cuts the decoded text; None without a stop string. `logprob` is the natural
    logarithm of the probability of `token_ids` and of the end token, if the model produced one: the sum
    over these tokens under the model's own logits, that is at temperature 1, before bias, penalties, bans
    and masks. Tokens that a constraint forces are not sampled, and are not in the sum. `error` says why the
    row could not be run, or, where the finish reason is not "error", what is wrong with the completion."""

    token_ids: Sequence[int]
    finish_reason: FinishReason
    text_end: int | None = None
    logprob: float | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScores:
    """`logprobs[i]`: natural logarithm of P(label i's tokens | prompt), summed over its tokens that are
    scored."""

    logprobs: Sequence[float]
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TextScore:
    """`logprob`: natural logarithm of P(text | context), the sum over the text's `num_tokens` tokens; None
    with an error."""

    logprob: float | None
    num_tokens: int
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """`values`: one float32 for each channel of the model (an `array.array("f")`); none with an error."""

    values: Sequence[float]
    error: str | None = None


Result = Completion | LabelScores | TextScore | Embedding


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineJob:
    """What all requests of a job share: the tokens with which (nearly) every prompt begins, whose
    keys and values are computed and stored once, and the tokens of the labels. A prompt that does
    not begin with the prefix runs too. With `label_ends` a label's score holds one term more: that one
    of these tokens follows it. The first `label_starts[l]` tokens of label l are not scored: they lead
    from the prompt to the label's words, such as one of several questions after a text. Empty: all are
    scored. An engine may have several jobs; requests name theirs by its index."""

    prefix_token_ids: tuple[int, ...] = ()
    labels: tuple[tuple[int, ...], ...] = ()
    label_ends: tuple[int, ...] = ()
    label_starts: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCounters:
    """Totals since the engine started, and what it holds now.

    `prefill_steps` of the `steps` read prompts; `prefill_s` and `decode_s` are the seconds of both kinds of steps.
    `busy_slots` of the `slots` hold a sequence now, and `cache_bytes` is the memory of their keys and values. What is
    measured is left out of comparisons.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    finished: int = 0
    steps: int = 0
    prefill_steps: int = field(default=0, compare=False)
    prefill_s: float = field(default=0.0, compare=False)
    decode_s: float = field(default=0.0, compare=False)
    slots: int = field(default=0, compare=False)
    busy_slots: int = field(default=0, compare=False)
    cache_bytes: int = field(default=0, compare=False)

    def since(self, earlier: EngineCounters) -> EngineCounters:
        """What was added after `earlier`."""
        return replace(self, **{name: getattr(self, name) - getattr(earlier, name) for name in _TOTALS})

    def plus(self, other: EngineCounters, *, totals_only: bool = False) -> EngineCounters:
        """The sum over two engines; `totals_only`: what the other one holds now does not count, as it has ended."""
        names = _TOTALS if totals_only else (*_TOTALS, *_STATES)
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})

    def not_below(self, earlier: EngineCounters) -> EngineCounters:
        """These counters with no total below that of `earlier` ones."""
        return replace(self, **{name: max(getattr(self, name), getattr(earlier, name)) for name in _TOTALS})


_TOTALS = ("prompt_tokens", "completion_tokens", "finished", "steps", "prefill_steps", "prefill_s", "decode_s")
_STATES = ("slots", "busy_slots", "cache_bytes")
