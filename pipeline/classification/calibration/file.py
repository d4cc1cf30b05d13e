"""The calibration file: a fitted calibration with what it is valid for, as JSON.

It has no text of a row, no path and no address.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tirazh.errors import InputError
from tirazh.pipeline.classification.calibration.calibration import Calibration, Sample
from tirazh.pipeline.classification.calibration.fit import METHODS
from tirazh.pipeline.classification.calibration.score_settings import ScoreSettings
from tirazh.pipeline.classification.calibration.transforms import Affine, Isotonic, Transform

FORMAT = "tirazh calibration"
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationFile:
    """A calibration, the scores that it was fitted on, and facts about it.

    `figures` has "rows", "before" and "after" (each with "log_loss" in nats, "ece" and "accuracy"; those after are
    cross-validated) and "log_loss" of each method that was tried. `created` is a time in UTC, ISO 8601; `version`
    that of tirazh.
    """

    calibration: Calibration
    scores: ScoreSettings
    figures: Mapping[str, Any]
    created: str
    version: str

    @property
    def digest(self) -> str:
        """The SHA-256, 64 hex digits, of everything that changes probabilities or thresholds.

        It does not depend on the date, the version and the figures: the same rows give the same digest again.
        """
        text = json.dumps(self._content(), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> bytes:
        """Serialise the file."""
        facts = {
            "format": FORMAT,
            "format_version": VERSION,
            "created": self.created,
            "version": self.version,
            "figures": dict(self.figures),
        }
        return (json.dumps(facts | self._content(), ensure_ascii=False, indent=1) + "\n").encode()

    def _content(self) -> dict[str, Any]:
        calibration = self.calibration
        assert calibration.sample is not None, "a calibration is stored with its sample"
        return {
            "method": calibration.method,
            "num_labels": len(calibration.labels),
            "label_names": list(calibration.labels),
            "label_shares": list(calibration.label_shares),
            "transform": _transform_values(calibration.transform),
            "scores": self.scores.to_json(),
            "labelled_rows": {
                "winner": list(calibration.sample.label),
                "winner_probability": list(calibration.sample.confidence),
                "correct": [int(each) for each in calibration.sample.correct],
            },
        }


def parse_calibration(data: bytes, *, name: str) -> CalibrationFile:
    """Parse a calibration file; `name` is its address in messages.

    Raises InputError for anything else, and for a file of a later version.
    """
    try:
        values = json.loads(data)
        if values["format"] != FORMAT:
            raise ValueError("its format is another one")
        if values["format_version"] != VERSION:
            raise InputError(
                f"the calibration file {name} was written by another version of tirazh ({values['version']}); make it "
                "again with `tirazh calibrate`"
            )
        return CalibrationFile(
            calibration=_calibration(values),
            scores=ScoreSettings.from_json(values["scores"]),
            figures=dict(values["figures"]),
            created=str(values["created"]),
            version=str(values["version"]),
        )
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{name} is not a calibration file ({type(error).__name__}: {error}); make one with `tirazh calibrate`"
        ) from error


def _transform_values(transform: Transform) -> dict[str, Any]:
    if isinstance(transform, Affine):
        return {"scales": list(transform.scales), "biases": list(transform.biases)}
    return {"rows": transform.rows, "knots": [[list(odds), list(shares)] for odds, shares in transform.knots]}


def _calibration(values: Mapping[str, Any]) -> Calibration:
    labels = tuple(map(str, values["label_names"]))
    method = values["method"]
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}")
    sample = Sample(
        label=tuple(map(int, values["labelled_rows"]["winner"])),
        confidence=_numbers(values["labelled_rows"]["winner_probability"]),
        correct=tuple(map(bool, values["labelled_rows"]["correct"])),
    )
    shares, transform = _numbers(values["label_shares"]), _transform(method, values["transform"])
    widths = {len(labels), values["num_labels"], len(shares), len(values["scores"]["label_words"])}
    widths |= (
        {len(transform.scales), len(transform.biases)} if isinstance(transform, Affine) else {len(transform.knots)}
    )
    heights = {len(sample.label), len(sample.confidence), len(sample.correct)}
    if len(widths) != 1 or len(heights) != 1:
        raise ValueError("its parts do not fit together")
    return Calibration(method=method, labels=labels, transform=transform, label_shares=shares, sample=sample)


def _transform(method: str, values: Mapping[str, Any]) -> Transform:
    if method != "isotonic":
        return Affine(_numbers(values["scales"]), _numbers(values["biases"]))
    knots = tuple((_numbers(odds), _numbers(shares)) for odds, shares in values["knots"])
    if not all(odds and len(odds) == len(shares) and list(odds) == sorted(odds) for odds, shares in knots):
        raise ValueError("its functions are incomplete")
    return Isotonic(knots, int(values["rows"]))


def _numbers(values: Any) -> tuple[float, ...]:
    numbers = tuple(map(float, values))
    if not all(abs(number) < float("inf") for number in numbers):
        raise ValueError("a number is not finite")
    return numbers
