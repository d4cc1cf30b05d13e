"""`tirazh.calibrate` and `tirazh.relabel`: a finished output's probabilities, without Ray and without the model."""

from __future__ import annotations

import os
from typing import Unpack

from tirazh.jobs.api.keywords import CalibrateOptions, RelabelOptions
from tirazh.jobs.api.results import FittedCalibration, Manifest


def calibrate(
    output: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    gold: str | os.PathLike[str] | None = None,
    key: str | None = None,
    gold_label: str | None = None,
    gold_column: str | None = None,
    **options: Unpack[CalibrateOptions],
) -> FittedCalibration:
    """Fit a calibration on the rows of a finished output of `classify` that have a gold label, and write it to a file.

        tirazh.calibrate("labelled", "calibration.json", gold="gold.parquet", key="id").method
        tirazh.classify(input="news/*.parquet", output="tonight", labels=labels, calibrate="calibration.json")

    Gold labels are in a file, or in a column of the output; by default in the job's `gold_column`.

    Args:
        output: directory that `classify` wrote.
        out: JSON file to write.
        gold: Parquet, CSV or JSONL file with gold labels.
        key: column of the output and of `gold` that names a row.
        gold_label: column of `gold` with the gold label (default: `label`).
        gold_column: column of the output with the gold label.
        **options: `method` ("auto", "temperature", "vector", "isotonic" or "batch"); `question`, which one of a job
            with several; `endpoint_url` of an S3-compatible server.

    Returns:
        The method, and log-loss, calibration error and accuracy before and after, cross-validated.

    Raises:
        OutputError: the directory holds no finished job of classify, or `out` is another file.
        RequestError: the probabilities are not those of the model alone, or there are too few rows.
    """
    from tirazh.pipeline.gold.read import GoldSource
    from tirazh.pipeline.relabel.fit import calibrate_output

    source = GoldSource(file=_path(gold), key=key, label=gold_label, column=gold_column)
    return FittedCalibration(calibrate_output(os.fspath(output), source, out=os.fspath(out), **options))


def relabel(
    output: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    abstain_below: float | None = None,
    target_error: float | None = None,
    calibration: str | os.PathLike[str] | None = None,
    **options: Unpack[RelabelOptions],
) -> Manifest:
    """Make a finished output of `classify` again with another threshold or a calibration, from its probabilities.

        tirazh.relabel("labelled", "stricter", abstain_below=0.8)
        tirazh.relabel("labelled", "checked", calibration="calibration.json", target_error=0.05)

    Args:
        output: directory that `classify` wrote; it is only read.
        out: directory of the new output. The same call again completes an interrupted one.
        abstain_below: the label is null below this confidence.
        target_error: abstain as often as needed so that at most this share of the answers is wrong.
        calibration: file that `calibrate` wrote; the probabilities change too.
        **options: `gold`, `key`, `gold_label` and `gold_column`, as in `calibrate`, for `target_error` without a
            calibration; `question`, which one of a job with several; `endpoint_url` of an S3-compatible server.

    Returns:
        The manifest of the new output.

    Raises:
        OutputError: a directory holds no finished job of classify, or `out` is in use.
        RequestError: the calibration was made for other scores, or the labelled rows cannot support the target.
        JobError: a part of the output is damaged, or another run writes to `out`.
    """
    from tirazh.pipeline.gold.read import GoldSource
    from tirazh.pipeline.relabel.command import relabel_output
    from tirazh.pipeline.relabel.request import RelabelRequest

    request = RelabelRequest(
        abstain_below=abstain_below,
        target_error=target_error,
        calibration=_path(calibration),
        question=options.get("question"),
        gold=GoldSource(
            file=_path(options.get("gold")),
            key=options.get("key"),
            label=options.get("gold_label"),
            column=options.get("gold_column"),
        ),
    )
    endpoint_url = options.get("endpoint_url")
    return Manifest(relabel_output(os.fspath(output), os.fspath(out), request, endpoint_url=endpoint_url))


def _path(value: str | os.PathLike[str] | None) -> str | None:
    return None if value is None else os.fspath(value)
