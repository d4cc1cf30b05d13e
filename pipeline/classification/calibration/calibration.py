"""A fitted calibration: what it does to a row, and the sample that shows how often the model is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tirazh.errors import RequestError
from tirazh.pipeline.classification.calibration.choose import cross_validate, row_order
from tirazh.pipeline.classification.calibration.error_bound import threshold_for
from tirazh.pipeline.classification.calibration.fit import METHODS, Ints, Method, fit, log_loss
from tirazh.pipeline.classification.calibration.transforms import Floats, Transform, normalised

# Fewer rows than this say nothing about a calibration.
MIN_ROWS = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """The labelled rows of a calibration: the most likely label of each (its index), the probability of that label, and
    whether it is the gold one.

    The probabilities are out-of-fold: each comes from a calibration that was fitted on other rows.
    """

    label: tuple[int, ...]
    confidence: tuple[float, ...]
    correct: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A calibration for one list of labels, in their order. It can be pickled.

    `label_shares` are the shares of the gold labels in the sample. `sample` is None in a copy for a task.
    """

    method: Method
    labels: tuple[str, ...]
    transform: Transform
    label_shares: tuple[float, ...]
    sample: Sample | None = field(default=None, repr=False)

    def apply(self, logprobs_NL: Floats) -> Floats:
        """Return calibrated probabilities, float64 [N, L], each row with sum 1.

        `logprobs_NL` are the labels' scores in natural logarithms, with or without a common constant per row.
        """
        return self.transform.apply(normalised(np.asarray(logprobs_NL, np.float64)))

    def threshold(self, target_error: float, *, none_label: str | None = None) -> float:
        """The confidence threshold for a target error; the guarantee is that of `error_bound.threshold_for`.

        Rows whose most likely label is `none_label` abstain at any threshold, so they do not count. Raises RequestError
        if the sample cannot support the target.
        """
        assert self.sample is not None, "a copy for a task has no sample"
        none_index = self.labels.index(none_label) if none_label is not None else -1
        counts = np.asarray(self.sample.label) != none_index
        confidence, correct = np.asarray(self.sample.confidence), np.asarray(self.sample.correct, bool)
        return threshold_for(confidence[counts], correct[counts], target_error)

    def without_sample(self) -> Calibration:
        """A small copy for a task, which needs `apply` alone."""
        return replace(self, sample=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A calibration and what its rows say about it.

    `before` are the probabilities that the rows had, `after` the out-of-fold ones of the calibration, float64 [N, L];
    `gold` the labels, int64 [N], in the same order. `log_loss` has the mean log-loss of every method that was tried,
    in nats, cross-validated, and under "none" that of `before`.
    """

    calibration: Calibration
    before: Floats
    after: Floats
    gold: Ints
    log_loss: dict[str, float]


def fit_calibration(
    logprobs_NL: Floats,
    gold_N: NDArray[np.int64],
    labels: tuple[str, ...],
    *,
    method: Method | Literal["auto"] = "auto",
) -> Fitted:
    """Fit a calibration on rows with gold labels.

    `logprobs_NL` are the labels' scores in natural logarithms, float64 [N, L]; `gold_N` indices into `labels`.
    `auto` chooses the method by `choose.choose_method`. The result does not depend on the order of the rows.
    Raises RequestError for fewer than `MIN_ROWS` rows, and for rows that all have one gold label.
    """
    if len(gold_N) < MIN_ROWS:
        raise RequestError(
            f"a calibration needs at least {MIN_ROWS} rows with a gold label and probabilities, but there are "
            f"{len(gold_N)}"
        )
    if len(np.unique(gold_N)) < 2:
        raise RequestError(
            f"all {len(gold_N)} gold rows have the label {labels[int(gold_N[0])]!r}; a calibration needs rows of at "
            "least two labels"
        )
    order = row_order(logprobs_NL, gold_N)
    base_NL, gold_N = normalised(np.asarray(logprobs_NL, np.float64))[order], np.asarray(gold_N, np.int64)[order]
    tried = cross_validate(base_NL, gold_N, METHODS if method == "auto" else (method,))
    after_NL = tried.probabilities[tried.chosen]
    winners = after_NL.argmax(axis=1)
    sample = Sample(
        label=tuple(map(int, winners)),
        confidence=tuple(map(float, after_NL.max(axis=1))),
        correct=tuple(map(bool, winners == gold_N)),
    )
    calibration = Calibration(
        method=tried.chosen,
        labels=labels,
        transform=fit(tried.chosen, base_NL, gold_N),
        label_shares=tuple(map(float, np.bincount(gold_N, minlength=len(labels)) / len(gold_N))),
        sample=sample,
    )
    before_NL = np.exp(base_NL)
    losses = {"none": float(log_loss(before_NL, gold_N).mean())}
    losses.update((str(name), loss) for name, loss in tried.log_loss.items())
    return Fitted(calibration=calibration, before=before_NL, after=after_NL, gold=gold_N, log_loss=losses)
