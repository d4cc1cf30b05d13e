"""Every column name and Arrow type that tirazh writes, and nowhere else."""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa

Kind = Literal["classify", "generate"]

COMPLETION = "completion"
COMPLETIONS = "completions"
FINISH_REASON = "finish_reason"
FINISH_REASONS = "finish_reasons"
PROMPT_TOKENS = "prompt_tokens"
COMPLETION_TOKENS = "completion_tokens"
LABEL = "label"
CONFIDENCE = "confidence"
PROBABILITIES = "probabilities"
ERROR = "error"

# Columns that exist only between the steps of a running job; no input column may begin so.
RESERVED = "__tirazh_"
PART = RESERVED + "part"
ROW_KEY = RESERVED + "row_key"
PROMPT_IDS = RESERVED + "prompt_ids"
NUM_PROMPT_IDS = RESERVED + "num_prompt_ids"
ROW_SEED = RESERVED + "row_seed"
COMPLETION_IDS = RESERVED + "completion_ids"
TEXT_ENDS = RESERVED + "text_ends"
REASONS = RESERVED + "reasons"
LABEL_LOGPROBS = RESERVED + "label_logprobs"
ROW_ERROR = RESERVED + "error"

# Per-row overrides of `generate`: an input column of numbers with such a name sets the row's own value.
OVERRIDES: dict[str, type[int] | type[float]] = {
    "max_new_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "repetition_penalty": float,
    "seed": int,
}


def generate_fields(samples: int) -> list[pa.Field[Any]]:
    """Columns that `generate` adds, in order. With several samples the texts and reasons become lists."""
    texts = pa.field(COMPLETION, pa.string()) if samples == 1 else pa.field(COMPLETIONS, pa.list_(pa.string()))
    reasons = pa.field(FINISH_REASON, pa.string()) if samples == 1 else pa.field(FINISH_REASONS, pa.list_(pa.string()))
    return [
        texts,
        reasons,
        pa.field(PROMPT_TOKENS, pa.int32()),
        pa.field(COMPLETION_TOKENS, pa.int32()),
        pa.field(ERROR, pa.string()),
    ]


def classify_fields() -> list[pa.Field[Any]]:
    """Columns that `classify` adds, in order."""
    return [
        pa.field(LABEL, pa.string()),
        pa.field(CONFIDENCE, pa.float32()),
        pa.field(PROBABILITIES, pa.map_(pa.string(), pa.float32())),
        pa.field(PROMPT_TOKENS, pa.int32()),
        pa.field(ERROR, pa.string()),
    ]


def added_names(names: list[str], prefix: str) -> list[str]:
    """The names of added columns as the output shows them."""
    return [prefix + name for name in names]
