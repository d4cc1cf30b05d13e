"""`tirazh calibrate`: fits a calibration on the rows of a finished output that have a gold label, and stores it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, cast

import numpy as np

from tirazh.errors import InputError, OutputError, RequestError
from tirazh.pipeline.classification.calibration.calibration import Calibration, Fitted, fit_calibration
from tirazh.pipeline.classification.calibration.file import parse_calibration
from tirazh.pipeline.classification.calibration.fit import METHODS, Method
from tirazh.pipeline.classification.calibration.make_file import make_calibration_file
from tirazh.pipeline.gold.read import GoldSource, LabelledOutput, read_labelled
from tirazh.pipeline.relabel.source import Source, check_question, open_source
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri

AUTO = "auto"
# The target errors whose thresholds are shown.
SHOWN_TARGETS = (0.1, 0.05, 0.01)


def calibrate_output(
    output: str,
    gold: GoldSource,
    *,
    out: str,
    method: str = AUTO,
    question: str | None = None,
    endpoint_url: str | None = None,
) -> dict[str, Any]:
    """Fit a calibration on a finished output of classify, write it to the file `out`, and return facts about it.

    These are `file`, `method`, `label_names`, `question`, `base` (the calibration without labelled rows that the scores
    had), `rows` (those of the sample), `before` and `after` (log-loss in nats, ECE, accuracy; those after are
    cross-validated), `log_loss` of each method, `targets` (the threshold and the coverage for some target errors, or
    why there is none), `counts` of `RowCounts` and `digest`. Raises RequestError for an output whose probabilities
    are not those of the model alone or are not complete, and for too few rows; OutputError for an `out` that is another
    file.
    """
    if method not in (AUTO, *METHODS):
        raise RequestError(f"--method must be one of {', '.join((AUTO, *METHODS))}, not {method!r}")
    storage = Storage(endpoint_url)
    source = open_source(output, storage)
    check_question(source, question)
    scores = source.scores(question)
    target = full_uri(out)
    _refuse_other_file(target, storage)
    found = read_labelled(output, gold, question=question, endpoint_url=endpoint_url)
    fitted = _fit(found, source, method)
    file = make_calibration_file(fitted, scores)
    storage.write(target, file.to_json())
    return {
        "file": show_uri(target),
        "digest": file.digest,
        "method": fitted.calibration.method,
        "label_names": list(fitted.calibration.labels),
        "question": question,
        "base": scores.base,
        **dict(file.figures),
        "targets": [_target(fitted.calibration, error) for error in SHOWN_TARGETS],
        "counts": asdict(found.counts),
    }


def _fit(found: LabelledOutput, source: Source, method: str) -> Fitted:
    rows = found.with_gold()
    if rows.probabilities is None:
        raise RequestError(f"{source.place} has no column with the probabilities of the labels")
    if np.isnan(rows.probabilities).any():
        raise RequestError(
            f"{source.place} has no probability of some labels, because of --top; run its job without it"
        )
    chosen = cast("Method | Literal['auto']", method)
    with np.errstate(divide="ignore"):
        logprobs_NL = np.log(rows.probabilities)
    return fit_calibration(logprobs_NL, rows.gold, rows.labels, method=chosen)


def _target(calibration: Calibration, error: float) -> dict[str, Any]:
    assert calibration.sample is not None
    try:
        threshold = calibration.threshold(error)
    except RequestError as reason:
        return {"target_error": error, "threshold": None, "coverage": None, "reason": str(reason)}
    coverage = float((np.asarray(calibration.sample.confidence) >= threshold).mean())
    return {"target_error": error, "threshold": threshold, "coverage": coverage, "reason": None}


def _refuse_other_file(uri: str, storage: Storage) -> None:
    """Raise OutputError if `uri` is a file that is no calibration; an earlier calibration is replaced."""
    try:
        data = storage.read(uri)
    except InputError:
        return
    try:
        parse_calibration(data, name=show_uri(uri))
    except InputError as error:
        if "another version" not in str(error):
            raise OutputError(f"--out {show_uri(uri)} is another file, not a calibration; name a new file") from error
