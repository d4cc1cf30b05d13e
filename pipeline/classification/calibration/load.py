"""Reads the calibration file that a job names, and refuses one that was made for other scores."""

from __future__ import annotations

from dataclasses import dataclass

from tirazh.errors import InputError, RequestError
from tirazh.pipeline.classification.calibration.calibration import Calibration
from tirazh.pipeline.classification.calibration.file import CalibrationFile, parse_calibration
from tirazh.pipeline.classification.calibration.score_settings import ScoreSettings, score_difference
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri

# Before the digest of a calibration file in the identity of a job.
FILE_DIGEST = "sha256:"


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedCalibration:
    """The calibration of a job, small enough to send to a task.

    `digest` stands for its file in the identity of the job: its content, not where it is. `base` is the calibration
    without labelled rows that its scores had, which the job applies first. `threshold` is the confidence that a target
    error needs, None without one.
    """

    calibration: Calibration
    digest: str
    base: str | None
    threshold: float | None


def load_fitted(
    uri: str, storage: Storage, job: ScoreSettings, *, target_error: float | None = None, none_label: str | None = None
) -> FittedCalibration:
    """Read the calibration file of a job whose scores are `job`.

    Raises InputError for a file that cannot be read, RequestError for one that was made for other scores, and for a
    target error that its sample cannot support.
    """
    file = load_calibration(uri, storage)
    check_scores(file, uri, job)
    threshold = None
    if target_error is not None:
        threshold = file.calibration.threshold(target_error, none_label=none_label)
    return FittedCalibration(
        calibration=file.calibration.without_sample(),
        digest=FILE_DIGEST + file.digest,
        base=file.scores.base,
        threshold=threshold,
    )


def load_calibration(uri: str, storage: Storage) -> CalibrationFile:
    """Read a calibration file from a path or a URI. Raises InputError if it is missing or another file."""
    full = full_uri(uri)
    try:
        data = storage.read(full)
    except InputError as error:
        raise InputError(
            f"the calibration file {show_uri(full)} does not exist; `tirazh calibrate` makes one from a finished "
            "output with gold labels (--calibrate takes contextual, batch or a file)"
        ) from error
    return parse_calibration(data, name=show_uri(full))


def check_scores(file: CalibrationFile, uri: str, job: ScoreSettings) -> None:
    """Raise RequestError, naming the difference, unless the calibration was made on scores such as those of a job."""
    difference = score_difference(file.scores, job)
    if difference is not None:
        raise RequestError(
            f"the calibration file {show_uri(full_uri(uri))} cannot be used here: it {difference}; fit one on an "
            "output of these settings with `tirazh calibrate`"
        )
