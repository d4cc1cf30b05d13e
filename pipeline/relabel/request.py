"""What `tirazh relabel` is asked for: thresholds and a calibration, resolved against a finished output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tirazh.errors import RequestError
from tirazh.pipeline.classification.calibration.calibration import Calibration
from tirazh.pipeline.classification.calibration.error_bound import threshold_for
from tirazh.pipeline.classification.calibration.load import FILE_DIGEST, check_scores, load_calibration
from tirazh.pipeline.classify_columns import answer_layouts
from tirazh.pipeline.gold.answers import find_answers
from tirazh.pipeline.gold.read import GoldSource, read_labelled
from tirazh.pipeline.relabel.rows import Change
from tirazh.pipeline.relabel.source import Source, check_question
from tirazh.pipeline.settings import check_fraction, fingerprint_of
from tirazh.pipeline.spec import ClassifySpec


@dataclass(frozen=True, kw_only=True, slots=True)
class RelabelRequest:
    """The arguments of `tirazh relabel`. `calibration` is the address of a file.

    Raises RequestError for a combination that makes no sense.
    """

    abstain_below: float | None = None
    target_error: float | None = None
    calibration: str | None = None
    question: str | None = None
    gold: GoldSource = field(default_factory=GoldSource)

    def __post_init__(self) -> None:
        if self.abstain_below is None and self.target_error is None and self.calibration is None:
            raise RequestError("nothing would change; give --abstain-below P, --target-error E or --calibration FILE")
        if self.abstain_below is not None and self.target_error is not None:
            raise RequestError(
                "--target-error and --abstain-below cannot be used together: both set the confidence below which a row "
                "abstains"
            )
        for name in ("abstain_below", "target_error"):
            if getattr(self, name) is not None:
                check_fraction(name, getattr(self, name))
        if self._has_gold and (self.calibration is not None or self.target_error is None):
            raise RequestError(
                "gold labels are for --target-error without --calibration; a calibration file has its own labelled rows"
            )

    @property
    def _has_gold(self) -> bool:
        return self.gold.file is not None or self.gold.column is not None


@dataclass(frozen=True, kw_only=True)
class Relabelling:
    """A request, resolved: `thresholds` are the new ones by question, "" for the one without a name, and `changes` what
    is done with the answers. `digest` is that of the calibration file that is applied, None without one."""

    request: RelabelRequest
    thresholds: Mapping[str, float]
    changes: tuple[Change, ...]
    digest: str | None

    def spec(self, source: Source) -> ClassifySpec:
        """The spec of the new output: that of the source with the new settings."""
        spec = source.spec
        if spec.questions is None:
            calibrate = self.request.calibration if self.digest is not None else spec.calibrate
            return replace(spec, abstain_below=self.thresholds[""], target_error=None, calibrate=calibrate)
        questions = {
            name: question | ({"abstain_below": self.thresholds[name]} if name in self.thresholds else {})
            for name, question in spec.questions.items()
        }
        return replace(spec, questions=questions)

    def identity(self, source: Source) -> tuple[dict[str, Any], str]:
        """The identity of the new output, and its fingerprint: that of the source, and what has changed."""
        identity = {name: value for name, value in source.plan.identity.items() if name != "target_error"}
        if "" in self.thresholds:
            identity["abstain_below"] = self.thresholds[""]
        if self.digest is not None:
            identity["calibrate"] = self.digest
        identity["relabelled"] = {
            "source": source.plan.id,
            "thresholds": dict(self.thresholds),
            "question": self.request.question,
            "calibration": self.digest,
        }
        return identity, fingerprint_of(identity)

    def facts(self, source: Source) -> dict[str, Any]:
        """What the manifest says about it."""
        return {
            "source": source.place,
            "source_plan_id": source.plan.id,
            "question": self.request.question,
            "thresholds": dict(self.thresholds),
            "target_error": self.request.target_error,
            "calibration": self.digest,
        }


def resolve_relabelling(source: Source, request: RelabelRequest, *, endpoint_url: str | None = None) -> Relabelling:
    """Find the thresholds and load the calibration.

    Raises RequestError for a question that the output does not have, a calibration that was made for other scores, and
    a target error that the labelled rows cannot support.
    """
    asked = {question.name: question for question in source.spec.asked}
    names = list(asked)
    if request.question is not None or request.target_error is not None or request.calibration is not None:
        check_question(source, request.question)
        names = [request.question or ""]
    calibration, digest = _calibration(source, request)
    none_label = asked[names[0]].none_label
    if request.target_error is None:
        given = request.abstain_below
        thresholds = {name: asked[name].abstain_below if given is None else given for name in names}
    elif calibration is not None:
        thresholds = {names[0]: calibration.threshold(request.target_error, none_label=none_label)}
    else:
        thresholds = {names[0]: _threshold_by_gold(source, request, none_label, endpoint_url)}
    layouts = dict(zip(asked, answer_layouts(replace(source.spec, priors=None)), strict=True))
    applied = calibration.without_sample() if calibration is not None and digest is not None else None
    changes = tuple(
        Change(
            columns=find_answers(source.found.spec, source.found.columns, name or None),
            layout=replace(layouts[name], threshold=threshold, calibration=applied),
        )
        for name, threshold in thresholds.items()
    )
    return Relabelling(request=request, thresholds=thresholds, changes=changes, digest=digest)


def _calibration(source: Source, request: RelabelRequest) -> tuple[Calibration | None, str | None]:
    """The calibration of a file, and what stands for the file in the identity of an output that it is applied to; None
    if the probabilities of the source are those of this file already."""
    uri = request.calibration
    if uri is None:
        return None, None
    file = load_calibration(uri, source.found.files.storage)
    digest = FILE_DIGEST + file.digest
    if source.base == digest:
        if request.abstain_below is None and request.target_error is None:
            raise RequestError(
                f"{source.place} is calibrated by this file already; give --abstain-below P or --target-error E"
            )
        return file.calibration, None
    scores = source.scores(request.question)
    check_scores(file, uri, scores)
    if file.scores.base != scores.base:
        made, here = (f"with --calibrate {base}" if base else "without" for base in (file.scores.base, scores.base))
        raise RequestError(
            f"the calibration file was fitted on probabilities {made}, and those of {source.place} were made {here}; "
            "fit one on an output such as this with `tirazh calibrate`"
        )
    return file.calibration, digest


def _threshold_by_gold(
    source: Source, request: RelabelRequest, none_label: str | None, endpoint_url: str | None
) -> float:
    """The threshold for a target error, from rows of the output with gold labels."""
    assert request.target_error is not None
    found = read_labelled(
        source.found.files.directory, request.gold, question=request.question, endpoint_url=endpoint_url
    ).with_gold()
    if found.probabilities is None:
        raise RequestError(f"{source.place} has no column with the probabilities of the labels")
    chances_NL = np.nan_to_num(found.probabilities, nan=0.0)
    winners = chances_NL.argmax(axis=1)
    counts = winners != (found.labels.index(none_label) if none_label is not None else -1)
    correct = winners == found.gold
    return threshold_for(chances_NL.max(axis=1)[counts], correct[counts], request.target_error)
