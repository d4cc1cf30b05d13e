"""Cross-validation of the methods: their log-loss on rows that they were not fitted on, and the choice of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tirazh.pipeline.classification.calibration.fit import METHODS, Ints, Method, fit, log_loss
from tirazh.pipeline.classification.calibration.transforms import Floats

FOLDS = 5


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """What each method gives on rows that it was not fitted on.

    `chosen` is the method that `choose_method` takes. `probabilities` has the out-of-fold probabilities of each
    method, float64 [N, L], `log_loss` their mean log-loss in nats.
    """

    chosen: Method
    probabilities: Mapping[Method, Floats]
    log_loss: Mapping[Method, float]


def cross_validate(logprobs_NL: Floats, gold_N: Ints, methods: tuple[Method, ...] = METHODS) -> CrossValidation:
    """Fit each method `FOLDS` times, each time on the rows outside one fold, and apply it to those inside.

    `logprobs_NL` as in `fit.py`. The order of the rows must be that of `row_order`.
    """
    fold_N = folds_of(gold_N)
    found: dict[Method, Floats] = {}
    for method in methods:
        out = np.empty_like(logprobs_NL)
        for fold in range(FOLDS):
            inside = fold_N == fold
            out[inside] = fit(method, logprobs_NL[~inside], gold_N[~inside]).apply(logprobs_NL[inside])
        found[method] = out
    losses = {method: log_loss(out, gold_N) for method, out in found.items()}
    return CrossValidation(
        choose_method(losses), found, {method: float(loss.mean()) for method, loss in losses.items()}
    )


def choose_method(losses: Mapping[Method, Floats]) -> Method:
    """Choose by the out-of-fold log-loss of each row, float64 [N], of each method.

    From the fewest parameters to the most, a method replaces the one chosen so far if its mean loss is lower by more
    than one standard error of the mean of the paired differences. With few rows that error is large, and the method
    with one parameter stays.
    """
    chosen, *others = [method for method in METHODS if method in losses]
    for method in others:
        gain_N = losses[chosen] - losses[method]
        if gain_N.mean() > gain_N.std(ddof=1) / np.sqrt(len(gain_N)):
            chosen = method
    return chosen


def folds_of(gold_N: Ints) -> Ints:
    """The fold of every row, int64 [N], from 0 to `FOLDS` - 1, with nearly the same share of every label in each.

    Rows are spread one by one in a fixed random order within their label.
    """
    shuffled = np.random.default_rng(0).permutation(len(gold_N))
    in_turn = shuffled[np.argsort(gold_N[shuffled], kind="stable")]
    fold_N = np.empty(len(gold_N), np.int64)
    fold_N[in_turn] = np.arange(len(gold_N)) % FOLDS
    return fold_N


def row_order(logprobs_NL: Floats, gold_N: Ints) -> Ints:
    """An order of the rows, int64 [N], that depends on their values alone: by gold label, then by log-probabilities.

    So a sample gives the same calibration to the last bit however its rows are ordered.
    """
    return np.asarray(np.lexsort((*logprobs_NL.T[::-1], gold_N)), np.int64)
