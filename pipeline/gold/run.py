"""Evaluates a finished output, compares it with another one, and writes the result beside the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tirazh.errors import InputError, RequestError
from tirazh.pipeline.evaluation.compare import answers_by_name, compare
from tirazh.pipeline.evaluation.evaluate import evaluate_figures
from tirazh.pipeline.evaluation.predictions import RowFigures
from tirazh.pipeline.gold.gold_file import positions
from tirazh.pipeline.gold.read import GoldSource, LabelledOutput, read_labelled
from tirazh.pipeline.output.report import write_report
from tirazh.pipeline.report.evaluation_section import rows_id
from tirazh.pipeline.settings import check_at_least
from tirazh.pipeline.storage.errors import show_uri


def evaluate_output(
    output: str,
    source: GoldSource,
    *,
    question: str | None = None,
    against: str | None = None,
    seed: int = 0,
    endpoint_url: str | None = None,
    write: bool = True,
) -> dict[str, Any]:
    """Evaluate the answers of a finished output of classify, and return the figures as JSON values.

    These are the fields of `Evaluation`, and `output`, `plan_id`, `rows_id`, `question`, `gold` (the source of the
    gold labels), `counts` (the fields of `RowCounts`) and, with another output `against`, the fields of `Comparison`.
    With `write` they are written to `_tirazh/evaluation.json`, and the report shows them. Raises RequestError if no
    row has a gold label that the job has, and what `read_labelled` raises.
    """
    check_at_least("seed", seed, 0)
    found = read_labelled(output, source, question=question, endpoint_url=endpoint_url)
    if not found.counts.evaluated:
        raise RequestError(_nothing_to_evaluate(found))
    figures = found.figures()
    values: dict[str, Any] = {
        "output": show_uri(found.output.files.directory),
        "plan_id": found.output.manifest["plan_id"],
        "rows_id": rows_id(found.output.manifest),
        "question": question,
        "gold": dict(found.source),
        "counts": asdict(found.counts),
        **evaluate_figures(figures, seed=seed).to_dict(),
    }
    if against is not None:
        other = read_labelled(against, source, question=question, endpoint_url=endpoint_url)
        values["against"] = _compare(found, figures, other, seed)
    if write:
        text = json.dumps(values, ensure_ascii=False, indent=1)
        found.output.files.storage.write(found.output.files.evaluation(question), text.encode())
        write_report(output, endpoint_url=endpoint_url)
    return values


def _compare(found: LabelledOutput, figures: RowFigures, other: LabelledOutput, seed: int) -> dict[str, Any]:
    of_other = other.figures()
    if found.keys is not None and other.keys is not None:
        places = positions(found.keys, other.keys, str(found.source.get("key", "")))
        here, there = np.flatnonzero(places >= 0), places[places >= 0]
        if not (figures.gold[here] >= 0).any():
            raise RequestError(f"no row with a gold label is also in {show_uri(other.output.files.directory)}")
    else:
        _check_same_rows(found, figures, other, of_other)
        here = there = np.arange(len(figures.gold))
    found_pairs = compare(_take(figures, here), _take(of_other, there), seed=seed)
    return {
        "output": show_uri(other.output.files.directory),
        "rows_only_here": len(figures.gold) - len(here),
        "rows_only_there": len(of_other.gold) - len(there),
        **found_pairs.to_dict(),
    }


def _check_same_rows(found: LabelledOutput, figures: RowFigures, other: LabelledOutput, of_other: RowFigures) -> None:
    """Raise InputError unless the outputs have the same gold labels in the same order."""
    first, second = (show_uri(each.output.files.directory) for each in (found, other))
    how = "give --key COLUMN, by which the rows are compared"
    if len(figures.gold) != len(of_other.gold):
        counts = f"{len(figures.gold):,} and {len(of_other.gold):,}"
        raise InputError(f"{first} and {second} have different numbers of rows, {counts}; {how}")
    golds = answers_by_name(of_other.gold, of_other.labels, figures.labels)
    different = (figures.gold >= 0) & (golds >= 0) & (figures.gold != golds)
    if different.any():
        row = int(np.argmax(different))
        labels = f"{figures.labels[figures.gold[row]]!r} and {of_other.labels[of_other.gold[row]]!r}"
        raise InputError(
            f"{first} and {second} do not have the same rows: row {row} has the gold labels {labels}; {how}"
        )


def _take(figures: RowFigures, rows: NDArray[np.int64]) -> RowFigures:
    arrays = ("gold", "chosen", "winner", "confidence", "brier", "log_loss")
    taken: Mapping[str, Any] = {name: getattr(figures, name)[rows] for name in arrays}
    return RowFigures(labels=figures.labels, has_probabilities=figures.has_probabilities, **taken)


def _nothing_to_evaluate(found: LabelledOutput) -> str:
    counts, place = found.counts, show_uri(found.output.files.directory)
    if counts.unknown_gold:
        names = ", ".join(map(repr, counts.unknown_labels))
        return (
            f"no gold label is one of the job's labels {', '.join(found.columns.labels[:10])}: {counts.unknown_gold:,} "
            f"rows of {place} have others, such as {names}"
        )
    if "file" in found.source and counts.gold_keys_without_row:
        key = found.source["key"]
        return (
            f"no key of {found.source['file']} is in the column {key!r} of {place}; check that --key names the same "
            "rows in both"
        )
    return f"no row of {place} has a gold label"
