"""Finished outputs of classify, written without a job: any shape, any number of parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.filesystem import Storage

LABELS = ("economics", "sport", "culture")
PLAN_ID = "12345678abcdef"
ENTRY = pa.struct([pa.field("label", pa.string()), pa.field("probability", pa.float32())])


def probabilities(chances: np.ndarray, labels: Sequence[str] = LABELS, top: int | None = None) -> pa.Array:
    """The column of these probabilities [N, L]; with `top` only the most likely labels, the best first."""
    rows = []
    for row in chances:
        order = np.argsort(-row)[:top] if top is not None else range(len(labels))
        rows.append([{"label": labels[each], "probability": float(row[each])} for each in order])
    return pa.array(rows, pa.list_(ENTRY))


def answers(chances: np.ndarray, labels: Sequence[str] = LABELS, *, abstain_below: float = 0.0) -> pa.Table:
    """The columns of a plain job for these probabilities, with an `id` in front."""
    confidence = chances.max(axis=1).astype(np.float32)
    best = [labels[each] for each in chances.argmax(axis=1)]
    return pa.table(
        {
            "id": pa.array(range(len(chances)), pa.int32()),
            "label": [None if value < abstain_below else name for name, value in zip(best, confidence, strict=True)],
            "confidence": pa.array(confidence),
            "probabilities": probabilities(chances, labels),
            "error": pa.nulls(len(chances), pa.string()),
        }
    )


def random_chances(rows: int, num_labels: int = len(LABELS), *, seed: int = 0) -> np.ndarray:
    weights = np.exp(2 * np.random.default_rng(seed).standard_normal((rows, num_labels))).astype(np.float32)
    return weights / weights.sum(axis=1, keepdims=True)


def write_output(
    directory: Path | str,
    table: pa.Table,
    *,
    parts: int = 1,
    spec: Mapping[str, Any] | None = None,
    kind: str = "classify",
    is_finished: bool = True,
) -> str:
    """Write the output directory of a job that made `table`, and return it."""
    files = OutputFiles.at(str(directory), Storage())
    cuts = [table.num_rows * part // parts for part in range(parts + 1)]
    named = []
    for index, (start, stop) in enumerate(pairwise(cuts)):
        name = f"part-{index:05d}-of-{parts:05d}-12345678.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table.slice(start, stop - start), sink)
        files.storage.write(files.part(name), sink.getvalue().to_pybytes())
        digest = hashlib.sha256(sink.getvalue()).hexdigest()
        named.append({"name": name, "rows": stop - start, "sha256": digest})
    settings = {"prefix": "", "labels": dict.fromkeys(LABELS, "word"), "gold_column": None} | dict(spec or {})
    manifest = {
        "kind": kind,
        "output": files.directory,
        "rows": table.num_rows,
        "errors": 0,
        "dtype": "float32",
        "plan_id": PLAN_ID,
        "model_fingerprint": "f" * 16,
        "parts": named,
        "spec": settings,
    }
    files.storage.write(files.own("plan.json"), b"{}")
    if is_finished:
        files.storage.write(files.own("manifest.json"), json.dumps(manifest).encode())
        files.storage.write(files.part("_SUCCESS"), PLAN_ID.encode())
    return files.directory
