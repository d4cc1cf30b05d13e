"""Checks of the settings of classify against each other, before any file is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tirazh.errors import RequestError
from tirazh.pipeline.classification.label_checks import check_labels
from tirazh.pipeline.classification.priors import check_priors
from tirazh.pipeline.classification.questions import check_none_label
from tirazh.pipeline.settings import check_at_least, check_fraction, check_int64, flag_name

if TYPE_CHECKING:
    from tirazh.pipeline.spec.classify import ClassifySpec

MAX_PERMUTATIONS = 64
# With --head the language model scores no label, so nothing of these is used.
_SCORING_ONLY = ("questions", "scoring", "shots", "shot_tokens", "permutations")


def check_classification(spec: ClassifySpec) -> None:
    """Raise RequestError for settings that are missing, out of range, or that exclude each other."""
    _check_labels(spec)
    _check_examples(spec)
    _check_decision(spec)
    for first, second, reason in _conflicts(spec):
        raise RequestError(f"{first} and {second} cannot be used together: {reason}")


def _check_labels(spec: ClassifySpec) -> None:
    if spec.labels is None and spec.questions is None:
        raise RequestError(
            "--labels is missing: label names, comma-separated, or a YAML file {label: words}; or several questions "
            "with --questions"
        )
    if spec.labels is not None and spec.questions is not None:
        raise RequestError("--labels and --questions cannot be used together; each question has labels of its own")
    if spec.labels is not None:
        check_labels(spec.labels)
    for question in spec.asked:
        if not question.name:
            check_none_label(question)


def _check_examples(spec: ClassifySpec) -> None:
    check_int64("seed", spec.seed)
    check_at_least("permutations", spec.permutations, 1, MAX_PERMUTATIONS)
    for name in ("shots", "shot_tokens"):
        if getattr(spec, name) is not None:
            check_at_least(name, getattr(spec, name), 1)
    changed = [
        flag_name(name)
        for name, default in (
            ("shots", None),
            ("shot_tokens", None),
            ("shot_selection", "balanced"),
            ("permutations", 1),
        )
        if getattr(spec, name) != default
    ]
    if changed and spec.examples is None:
        raise RequestError(f"{', '.join(changed)} needs --examples FILE, from which the examples are taken")
    if spec.shot_selection == "nearest" and spec.shots is None:
        raise RequestError("--shot-selection nearest needs --shots N, the number of examples for each row")


def _check_decision(spec: ClassifySpec) -> None:
    check_fraction("abstain_below", spec.abstain_below)
    for name in ("multi_label", "target_error"):
        if getattr(spec, name) is not None:
            check_fraction(name, getattr(spec, name))
    if spec.questions is None:
        check_priors(spec.priors, list(spec.labels or ()))
    if spec.top is not None:
        check_at_least("top", spec.top, 1)
    if spec.target_error is not None and spec.calibration_file is None:
        raise RequestError(
            "--target-error needs --calibrate FILE, a file that `tirazh calibrate` wrote; its sample shows how often "
            "the model is wrong"
        )


def _conflicts(spec: ClassifySpec) -> Iterator[tuple[str, str, str]]:
    if spec.shots is not None and spec.shot_tokens is not None:
        yield "--shots", "--shot-tokens", "both say how many examples are taken"
    if spec.shot_selection == "nearest":
        yield from _conflicts_of_nearest(spec)
    if spec.target_error is not None and spec.priors is not None:
        yield "--target-error", "--priors", "the sample of the calibration has other shares of labels, and other errors"
    if spec.target_error is not None and spec.abstain_below:
        yield "--target-error", "--abstain-below", "both set the confidence below which a row abstains"
    if spec.questions is not None:
        yield from _conflicts_of_questions(spec)
    if spec.head is not None:
        yield from _conflicts_of_head(spec)


def _conflicts_of_questions(spec: ClassifySpec) -> Iterator[tuple[str, str, str]]:
    for name in ("target_error", "priors", "none_label", "gold_column", "head"):
        if getattr(spec, name) is not None:
            yield "--questions", flag_name(name), "give it to each question, or run the questions one by one"
    if spec.calibration_file is not None:
        yield "--questions", "--calibrate FILE", "a calibration file belongs to one set of labels"


def _conflicts_of_nearest(spec: ClassifySpec) -> Iterator[tuple[str, str, str]]:
    if spec.permutations > 1:
        yield "--shot-selection nearest", "--permutations", "the nearest examples have one order, the nearest last"
    if spec.calibrate == "contextual":
        reason = "the bias of the labels depends on the examples, and each row has others; try --calibrate batch"
        yield "--shot-selection nearest", "--calibrate contextual", reason


def _conflicts_of_head(spec: ClassifySpec) -> Iterator[tuple[str, str, str]]:
    if spec.examples is None:
        raise RequestError("--head linear needs --examples FILE with labelled rows, on which the head is fitted")
    reason = "the head does not score the words of labels"
    defaults = {"scoring": "sum", "permutations": 1}
    for name in _SCORING_ONLY:
        if getattr(spec, name) != defaults.get(name):
            yield "--head", flag_name(name), reason
    if spec.calibrate in ("contextual", "batch"):
        yield "--head", f"--calibrate {spec.calibrate}", reason
