"""Nights of news: finished outputs of classify with given shares of labels, written without a job."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.pipeline.gold.outputs import ENTRY, write_output
from tirazh.pipeline.drift.figures import Measured
from tirazh.pipeline.drift.read import LabelNumbers, OutputColumns, Question, count_rows
from tirazh.pipeline.evaluation.confusion import macro_f1, matrix_of_cells

LABELS = ("politics", "economics", "culture", "science", "sport")
# The shares of a usual night.
USUAL = (0.4, 0.3, 0.16, 0.1, 0.04)
# The same with 14 % sport.
MORE_SPORT = (0.36, 0.27, 0.14, 0.09, 0.14)
COLUMNS = OutputColumns(
    questions=(Question(name="", labels=LABELS, label="label", confidence="confidence", gold="gold"),),
    error="error",
    tokens="prompt_tokens",
)


@dataclass(frozen=True, kw_only=True)
class Night:
    """The rows of a night. Confidences are calibrated: a gold label is the label with the probability that its row
    says."""

    rows: int = 350
    shares: Sequence[float] = USUAL
    labels: Sequence[str] = LABELS
    seed: int = 0
    abstain_below: float = 0.0
    error_share: float = 0.0
    gold_share: float = 0.0
    tokens: float = 180.0


def night_table(night: Night) -> pa.Table:
    """The rows of a night: `id`, `text`, `gold`, and the columns of a plain job."""
    rows, seed, labels = night.rows, night.seed, night.labels
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(labels), rows, p=np.array(night.shares) / np.sum(night.shares))
    confidence = (0.4 + 0.6 * rng.beta(5, 1, rows)).astype(np.float32)
    failed = rng.random(rows) < night.error_share
    others = (chosen + rng.integers(1, max(2, len(labels)), rows)) % len(labels)
    truth = np.where(rng.random(rows) < confidence, chosen, others)
    has_gold = rng.random(rows) < night.gold_share
    names = np.array(labels, object)
    label = np.where(failed | (confidence < night.abstain_below), None, names[chosen])
    lengths = np.maximum(1, rng.normal(night.tokens, night.tokens / 3, rows)).astype(np.int32)
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
    directory: Path | str,
    night: Night | pa.Table,
    *,
    spec: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    kind: str = "classify",
    parts: int = 2,
) -> str:
    """Write a night as a finished output, and return its directory. `manifest` are more values of its manifest."""
    table = night_table(night) if isinstance(night, Night) else night
    settings = {"labels": list(LABELS), "text_column": "text", "model": "embedded", **dict(spec or {})}
    output = write_output(directory, table, parts=parts, spec=settings, kind=kind)
    path = Path(output) / "_tirazh/manifest.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    gold = gold_facts(table, settings["labels"]) if settings.get("gold_column") else {}
    path.write_text(json.dumps(values | gold | dict(manifest or {})), encoding="utf-8")
    return output


def gold_facts(table: pa.Table, labels: Sequence[str]) -> dict[str, Any]:
    """What a manifest says about the gold labels of a night."""
    pairs = zip(table.column("gold").to_pylist(), table.column("label").to_pylist(), strict=True)
    cells = Counter((gold, label) for gold, label in pairs if gold is not None)
    if not cells:
        return {}
    matrix, _ = matrix_of_cells(labels, [(gold, label, rows) for (gold, label), rows in cells.items()])
    return {
        "gold_rows": cells.total(),
        "accuracy": int(matrix.diagonal().sum()) / cells.total(),
        "macro_f1": macro_f1(matrix),
        "confusion": [[gold, label, rows] for (gold, label), rows in cells.items()],
    }


def halves(table: pa.Table, rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """The rows of a night divided at random into two of equal size."""
    order = rng.permutation(table.num_rows)
    middle = table.num_rows // 2
    return table.take(order[:middle]), table.take(order[middle:])


def measured(night: Night | pa.Table) -> Measured:
    """The counts of a night that is no output."""
    table = night_table(night) if isinstance(night, Night) else night
    counts, _ = count_rows(table, COLUMNS, LabelNumbers())
    return Measured(counts=counts, facts={"rows": float(table.num_rows)})
