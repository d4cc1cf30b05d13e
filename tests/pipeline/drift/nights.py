"""Nights of news: finished outputs of classify with given shares of labels, written without a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.pipeline.gold.outputs import ENTRY, write_output
from tirazh.pipeline.drift.figures import Measured
from tirazh.pipeline.drift.read import LabelNumbers, OutputColumns, Question, count_rows
from tirazh.pipeline.gold.answers import AnswerColumns

LABELS = ("politics", "economics", "culture", "science", "sport")
# The shares of a usual night.
USUAL = (0.4, 0.3, 0.16, 0.1, 0.04)
# The same with 14 % sport.
MORE_SPORT = (0.36, 0.27, 0.14, 0.09, 0.14)
COLUMNS = OutputColumns(
    questions=(
        Question(
            name="",
            columns=AnswerColumns(
                labels=LABELS,
                none_label=None,
                label="label",
                error="error",
                confidence="confidence",
                probabilities=None,
                abstained=None,
            ),
            gold="gold",
        ),
    ),
    error="error",
    tokens="prompt_tokens",
)


def night_table(
    rows: int,
    *,
    shares: Sequence[float] = USUAL,
    labels: Sequence[str] = LABELS,
    seed: int = 0,
    abstain_below: float = 0.0,
    error_share: float = 0.0,
    gold_share: float = 0.0,
    tokens: float = 180.0,
) -> pa.Table:
    """The rows of a night: `id`, `text`, `gold`, and the columns of a plain job. Confidences are calibrated: a gold
    label is the label with the probability that the row says."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(labels), rows, p=np.array(shares) / np.sum(shares))
    confidence = (0.4 + 0.6 * rng.beta(5, 1, rows)).astype(np.float32)
    failed = rng.random(rows) < error_share
    others = (chosen + rng.integers(1, max(2, len(labels)), rows)) % len(labels)
    truth = np.where(rng.random(rows) < confidence, chosen, others)
    has_gold = rng.random(rows) < gold_share
    names = np.array(labels, object)
    label = np.where(failed | (confidence < abstain_below), None, names[chosen])
    lengths = np.maximum(1, rng.normal(tokens, tokens / 3, rows)).astype(np.int32)
    return pa.table(
        {
            "id": pa.array([f"{seed}-{row}" for row in range(rows)], pa.string()),
            "text": pa.array([f"story {seed}-{row}" for row in range(rows)], pa.string()),
            "gold": pa.array(np.where(has_gold, names[truth], None), pa.string()),
            "label": pa.array(label, pa.string()),
            "confidence": pa.array(np.where(failed, np.nan, confidence), pa.float32(), from_pandas=True),
            "probabilities": pa.nulls(rows, pa.list_(ENTRY)),
            "prompt_tokens": pa.array(lengths, pa.int32(), mask=failed),
            "error": pa.array(np.where(failed, "the prompt is too long", None), pa.string()),
        }
    )


def write_night(
    directory: Path | str, table: pa.Table, *, spec: Mapping[str, Any] | None = None, parts: int = 2, **more: Any
) -> str:
    """Write a night as a finished output, and return its directory. `more` are values of its manifest."""
    settings = {"labels": list(LABELS), "text_column": "text", "model": "embedded", **dict(spec or {})}
    return write_output(directory, table, parts=parts, spec=settings, **more)


def halves(table: pa.Table, rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """The rows of a night divided at random into two of equal size."""
    order = rng.permutation(table.num_rows)
    middle = table.num_rows // 2
    return table.take(order[:middle]), table.take(order[middle:])


def measured(table: pa.Table) -> Measured:
    """The counts of a night that is no output."""
    counts, _ = count_rows(table, COLUMNS, LabelNumbers())
    return Measured(counts=counts, facts={"rows": float(table.num_rows)})
