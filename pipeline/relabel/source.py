"""A finished output whose probabilities are used again: its plan, its spec, and what its scores were made of."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tirazh.errors import OutputError, RequestError, did_you_mean
from tirazh.pipeline.classification.calibration.load import FILE_DIGEST
from tirazh.pipeline.classification.calibration.score_settings import ScoreSettings, score_fingerprint
from tirazh.pipeline.gold.finished import FinishedOutput, open_finished
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage


@dataclass(frozen=True, kw_only=True)
class Source:
    """A finished output of classify. `place` is its address in messages."""

    found: FinishedOutput
    plan: Plan
    spec: ClassifySpec
    place: str

    @property
    def base(self) -> str | None:
        """The calibration of its probabilities: "contextual", "batch", the digest of a file, or None."""
        value = self.plan.identity.get("calibrate")
        return None if value is None else str(value)

    @property
    def is_calibrated_by_file(self) -> bool:
        """Whether its probabilities are those of a calibration file."""
        return (self.base or "").startswith(FILE_DIGEST)

    def scores(self, question: str | None) -> ScoreSettings:
        """What determined its scores, for one of its questions. Raises RequestError for probabilities that are no
        scores of the model alone: with priors, with batch calibration, or already calibrated."""
        if self.plan.identity.get("priors") is not None:
            raise RequestError(
                f"{self.place} was made with --priors, which change the probabilities; run its job without, and use "
                "that output"
            )
        if self.is_calibrated_by_file:
            raise RequestError(
                f"the probabilities of {self.place} are calibrated by a file already; use the output of a job without "
                "--calibrate FILE"
            )
        if self.base == "batch":
            raise RequestError(
                f"{self.place} was made with --calibrate batch, whose correction is another one for every input; run "
                "its job with --calibrate contextual or without, and use that output"
            )
        return score_fingerprint(
            self.plan.identity,
            model_fingerprint=self.plan.model_fingerprint,
            examples_sha256=self.plan.examples_sha256,
            question=question,
            base=self.base,
        )


def open_source(output: str, storage: Storage) -> Source:
    """Open a finished output of classify. Raises OutputError for any other directory."""
    found = open_finished(output, storage)
    place = show_uri(found.files.directory)
    if found.manifest["kind"] != "classify":
        raise OutputError(
            f"{place} is the output of a job of several steps; name that of its classify step, in _tirazh/steps/"
        )
    plan = read_plan(found.files)
    if plan is None or plan.id != found.manifest["plan_id"]:
        raise OutputError(f"{place} is damaged: its plan is not that of its manifest; `tirazh verify` says more")
    try:
        spec = _spec_of(found.spec)
    except TypeError as error:
        raise OutputError(f"{place} has no complete spec in its manifest ({error}); run its job again") from error
    return Source(found=found, plan=plan, spec=spec, place=place)


def check_question(source: Source, question: str | None) -> None:
    """Raise RequestError unless the output has this question: None for the one without a name."""
    names = [asked.name for asked in source.spec.asked]
    if (question or "") in names:
        return
    if question is None:
        raise RequestError(f"the job has several questions; choose one with --question, of {', '.join(names)}")
    known = did_you_mean(question, names) or ("" if names == [""] else f"; its questions are {', '.join(names)}")
    raise RequestError(f"--question: the job of {source.place} has no question {question!r}{known}")


def _spec_of(values: Any) -> ClassifySpec:
    known = {each.name for each in fields(ClassifySpec)}
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in known and value is not None
    }
    return ClassifySpec(**given)
