"""The names and Arrow types of all columns that tirazh writes; no other module spells them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import pyarrow as pa

Kind = Literal["classify", "generate", "score", "embed"]

COMPLETION = "completion"
COMPLETIONS = "completions"
FINISH_REASON = "finish_reason"
FINISH_REASONS = "finish_reasons"
PROMPT_TOKENS = "prompt_tokens"
COMPLETION_TOKENS = "completion_tokens"
LABEL = "label"
CHOICE = "choice"
LABELS = "labels"
ABSTAINED = "abstained"
CONFIDENCE = "confidence"
PROBABILITIES = "probabilities"
PROBABILITY = "probability"
EMBEDDING = "embedding"
ERROR = "error"
SAMPLE = "sample"
PROMPT = "prompt"
SEED = "seed"
LOGPROB = "logprob"
LOGPROBS = "logprobs"
NUM_TOKENS = "num_tokens"
BITS_PER_CHARACTER = "bits_per_character"
KEPT = "kept"
DROP_REASONS = "drop_reasons"

# The prefix of the columns that exist only between the steps of a running job; reserved, so no
# input column may use it.
RESERVED = "__tirazh_"
PART = RESERVED + "part"
REPETITION = RESERVED + "repetition"
PROMPT_TEXT = RESERVED + "prompt_text"
PROMPT_IDS = RESERVED + "prompt_ids"
NUM_PROMPT_IDS = RESERVED + "num_prompt_ids"
ROW_SEED = RESERVED + "row_seed"
COMPLETION_IDS = RESERVED + "completion_ids"
TEXT_ENDS = RESERVED + "text_ends"
REASONS = RESERVED + "reasons"
COMPLETION_LOGPROBS = RESERVED + "completion_logprobs"
NUM_CONTEXT_IDS = RESERVED + "num_context_ids"
NUM_CHARACTERS = RESERVED + "num_characters"
TEXT_LOGPROB = RESERVED + "text_logprob"
NUM_TEXT_IDS = RESERVED + "num_text_ids"
# The log-probabilities of the labels of all questions, one question behind the other; those of a question need not
# sum to one.
LABEL_LOGPROBS = RESERVED + "label_logprobs"
ROW_ERROR = RESERVED + "error"
SAMPLE_ERRORS = RESERVED + "sample_errors"
SAMPLE_NUMBER = RESERVED + "sample_number"
# Columns of which a row has a list with the value of each of its samples.
PER_SAMPLE = (COMPLETION_IDS, TEXT_ENDS, REASONS, COMPLETION_LOGPROBS, SAMPLE_ERRORS)

# Per-row overrides of `generate`: a numeric input column with such a name sets the value of its row.
OVERRIDES: dict[str, type[int] | type[float]] = {
    "max_new_tokens": int,
    "min_new_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "frequency_penalty": float,
    "presence_penalty": float,
    "seed": int,
}


# What `generate` writes on request (`keep`).
KEEPABLE: dict[str, pa.DataType] = {PROMPT: pa.string(), SEED: pa.int64()}


def generate_fields(samples: int, *, as_lists: bool = False, keep: Collection[str] = ()) -> list[pa.Field[Any]]:
    """The columns that `generate` adds, in order.

    With several samples a row has the number of its sample, or lists of texts, finish reasons and log-probabilities if
    `as_lists`. `keep` are the names in `KEEPABLE` that are written, too.
    """
    has_lists = as_lists and samples > 1
    texts = pa.field(COMPLETIONS, pa.list_(pa.string())) if has_lists else pa.field(COMPLETION, pa.string())
    reasons = pa.field(FINISH_REASONS, pa.list_(pa.string())) if has_lists else pa.field(FINISH_REASON, pa.string())
    logprobs = pa.field(LOGPROBS, pa.list_(pa.float64())) if has_lists else pa.field(LOGPROB, pa.float64())
    number = [pa.field(SAMPLE, pa.int32())] if samples > 1 and not as_lists else []
    return [
        *number,
        *(pa.field(name, arrow_type) for name, arrow_type in KEEPABLE.items() if name in keep),
        texts,
        reasons,
        pa.field(PROMPT_TOKENS, pa.int32()),
        pa.field(COMPLETION_TOKENS, pa.int32()),
        logprobs,
        pa.field(ERROR, pa.string()),
    ]


def score_fields() -> list[pa.Field[Any]]:
    """The columns that `score` adds, in order."""
    return [
        pa.field(LOGPROB, pa.float64()),
        pa.field(NUM_TOKENS, pa.int32()),
        pa.field(BITS_PER_CHARACTER, pa.float64()),
        pa.field(ERROR, pa.string()),
    ]


def answer_fields(*, as_decision: bool = False, multi_label: bool = False) -> list[pa.Field[Any]]:
    """The columns of the answer to one question of `classify`, in order.

    `probabilities` has one entry for each label, in the order of the labels, or the most likely ones. It is no map,
    which Hugging Face datasets cannot read. With `as_decision` the names are those of decision APIs; with `multi_label`
    there is a list of all labels that are likely enough.
    """
    entry = pa.struct([pa.field(LABEL, pa.string()), pa.field(PROBABILITY, pa.float32())])
    fields: list[pa.Field[Any]] = [
        pa.field(CHOICE if as_decision else LABEL, pa.string()),
        pa.field(CONFIDENCE, pa.float32()),
        pa.field(PROBABILITIES, pa.list_(entry)),
    ]
    if multi_label:
        fields.append(pa.field(LABELS, pa.list_(pa.string())))
    return [*fields, pa.field(ABSTAINED, pa.bool_())] if as_decision else fields


def row_fields() -> list[pa.Field[Any]]:
    """The columns that `classify` adds once for a row, whatever is asked about it, in order."""
    return [pa.field(PROMPT_TOKENS, pa.int32()), pa.field(ERROR, pa.string())]


def classify_fields(*, as_decision: bool = False, multi_label: bool = False) -> list[pa.Field[Any]]:
    """The columns that `classify` adds for one question without a name, in order."""
    return [*answer_fields(as_decision=as_decision, multi_label=multi_label), *row_fields()]
