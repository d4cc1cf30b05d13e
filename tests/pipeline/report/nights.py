"""The output of a night of news, on a disk: 350 rows of which 2 have an error and 9 no label, with 51 gold labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.pipeline.classification.answer_counts import columns_of_answers, count_answers
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.quality import _answers
from tirazh.pipeline.output.report import pages_of
from tirazh.pipeline.storage.filesystem import Storage

LABELS = ("economics", "sport", "science", "world", "culture")
ROWS, ERRORS, ABSTAINED, GOLD = 350, 2, 9, 51
PARTS = 7
_SENTENCES = "Совет обсудил бюджет, а команда выиграла матч со счётом 3:1. " + "Ещё слова. " * 6
SPEC = {
    "kind": "classify",
    "input": ["night.parquet"],
    "output": "/news/labelled/2026-11-23",
    "text_column": "text",
    "labels": {label: label for label in LABELS},
    "gold_column": "desk",
    "abstain_below": 0.4,
    "calibrate": "contextual",
    "template": None,
    "seed": 0,
    "overwrite": False,
}


def night_table(texts: list[str] | None = None) -> pa.Table:
    """The rows; `texts` replaces the first texts."""
    random = np.random.default_rng(7)
    confidences = np.sort(random.beta(4, 1, ROWS) * 0.59 + 0.41)
    confidences[:ABSTAINED] = np.linspace(0.25, 0.39, ABSTAINED)
    best = random.integers(0, len(LABELS), ROWS)
    order = random.permutation(ROWS)
    rows: list[dict[str, Any]] = []
    for number, (confidence, label) in enumerate(zip(confidences, best, strict=True)):
        others = [each for each in LABELS if each != LABELS[label]]
        chances = [(LABELS[label], confidence), *((each, (1 - confidence) / 4) for each in others)]
        rows.append(
            {
                "text": f"Новость {number}: {_SENTENCES}",
                "label": None if number < ABSTAINED else LABELS[label],
                "confidence": confidence,
                "probabilities": [{"label": name, "probability": chance} for name, chance in chances],
                "error": None,
            }
        )
    for number, text in enumerate(texts or []):
        rows[number]["text"] = text
    for number in range(ROWS - ERRORS, ROWS):
        rows[number] |= {"text": None, "label": None, "confidence": None, "probabilities": None}
        rows[number]["error"] = "column 'text' is null"
    gold = {int(row) for row in order[order < ROWS - ERRORS][:GOLD]}
    for number, row in enumerate(rows):
        row["desk"] = None if number not in gold else LABELS[best[number]] if number % 6 else "world"
    entry = pa.struct([pa.field("label", pa.string()), pa.field("probability", pa.float32())])
    fields: list[pa.Field[Any]] = [pa.field(name, pa.string()) for name in ("text", "desk", "label", "error")]
    fields += [pa.field("confidence", pa.float32()), pa.field("probabilities", pa.list_(entry))]
    return pa.Table.from_pylist([rows[index] for index in order], schema=pa.schema(fields))


def write_night(folder: Path, *, texts: list[str] | None = None, **changes: Any) -> tuple[dict[str, Any], OutputFiles]:
    """Write the parts, and return the manifest and the files."""
    output = OutputFiles(Storage(), str(folder / "2026-11-23"))
    Path(output.directory).mkdir(parents=True)
    table, size = night_table(texts), ROWS // PARTS
    (columns,) = columns_of_answers(SPEC)
    parts, counts = [], []
    for index in range(PARTS):
        name = f"part-{index:05d}-of-{PARTS:05d}-0123abcd.parquet"
        rows = table.slice(index * size, size)
        pq.write_table(rows, output.part(name))
        counts.append(count_answers(rows, columns, [error is None for error in rows["error"].to_pylist()]))
        parts.append({"name": name, "rows": size, "errors": 0, "file_bytes": 12_345, "sha256": "0" * 64})
    manifest: dict[str, Any] = {
        "kind": "classify",
        "output": SPEC["output"],
        "rows": ROWS,
        "input_rows": ROWS,
        "errors": ERRORS,
        "error_kinds": {"column 'text' is null": ERRORS},
        "prompt_tokens": 47_978,
        "completion_tokens": 0,
        "seconds": 201.0,
        "tokens_per_s": 238.7,
        "replicas": 2,
        "replica_deaths": 0,
        "begin": "2026-11-23T01:30:00+00:00",
        "end": "2026-11-23T01:35:02+00:00",
        "timeline": [
            {"s": 4.0 * step, "rows": 6 * step, "tokens": 900 * step, "replicas": min(2, step // 5)}
            for step in range(58)
        ],
        "num_parts": PARTS,
        "dtype": "bfloat16",
        "plan_id": "0" * 32,
        "model_fingerprint": "f" * 16,
        "versions": {"python": "3.11.7", "tirazh": "0.1.0"},
        "parts": parts,
        "spec": SPEC,
        **_answers(counts),
    }
    return manifest | changes, output


def page_of_night(folder: Path, *, texts: list[str] | None = None, **changes: Any) -> str:
    """The report of the night."""
    manifest, output = write_night(folder, texts=texts, **changes)
    return pages_of(manifest, output)["report.html"].decode()
