"""Fits a linear head with scikit-learn: standardised channels, L2 penalty chosen by cross-validation."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tirazh.pipeline.classification.head.linear import LinearHead

# Inverse strengths of the penalty that are tried (C of scikit-learn).
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MAX_FOLDS = 5
_MAX_STEPS = 1_000


def fit_head(
    states_NC: NDArray[np.float32], targets: Sequence[str], labels: Sequence[str], *, seed: int = 0
) -> LinearHead:
    """Fit a head on hidden states [N, C] with the label of each row; every label has at least two rows.

    The penalty with the smallest log-loss in stratified cross-validation is taken; `seed` decides the folds. Labels
    are not reweighted: one that is frequent in the examples is more probable. The result does not depend on the
    number of threads.
    """
    from threadpoolctl import threadpool_limits

    places = {label: index for index, label in enumerate(labels)}
    targets_N = np.array([places[target] for target in targets])
    states = states_NC.astype(np.float64)
    folds = min(MAX_FOLDS, *Counter(targets).values())
    # Sums in several threads are rounded differently.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn: a fit that ended at the last step
        validated = [_validate(states, targets_N, penalty, folds, seed) for penalty in PENALTIES]
        best = min(range(len(PENALTIES)), key=lambda index: validated[index][0])
        weights_LC, bias_L = _fit(states, targets_N, PENALTIES[best])
    loss, accuracy = validated[best]
    facts: dict[str, Any] = {
        "examples": len(targets),
        "folds": folds,
        "penalty_c": PENALTIES[best],
        "validated_accuracy": round(accuracy, 6),
        "validated_log_loss": round(loss, 6),
    }
    return LinearHead(tuple(labels), weights_LC, bias_L, facts)


def _validate(
    states_NC: NDArray[np.float64], targets_N: NDArray[np.int64], penalty: float, folds: int, seed: int
) -> tuple[float, float]:
    """The log-loss and the accuracy on rows that the fit has not seen, over all folds together."""
    from sklearn.model_selection import StratifiedKFold

    logprobs_NL = np.empty((len(targets_N), targets_N.max() + 1))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(states_NC, targets_N)
    for seen, held_out in parts:
        weights_LC, bias_L = _fit(states_NC[seen], targets_N[seen], penalty)
        head = LinearHead(("",) * len(bias_L), weights_LC, bias_L)
        logprobs_NL[held_out] = head.log_probabilities(states_NC[held_out])
    loss = -logprobs_NL[np.arange(len(targets_N)), targets_N].mean()
    return float(loss), float((logprobs_NL.argmax(axis=1) == targets_N).mean())


def _fit(
    states_NC: NDArray[np.float64], targets_N: NDArray[np.int64], penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights [L, C] and bias [L] for states that are not standardised."""
    from sklearn.linear_model import LogisticRegression

    mean_C, scale_C = states_NC.mean(axis=0), states_NC.std(axis=0)
    scale_C[scale_C == 0] = 1.0
    model = LogisticRegression(C=penalty, solver="lbfgs", max_iter=_MAX_STEPS)
    model.fit((states_NC - mean_C) / scale_C, targets_N)
    weights_LC, bias_L = model.coef_, model.intercept_
    if len(weights_LC) == 1:  # of two labels scikit-learn has the logit of the second one
        weights_LC, bias_L = np.vstack([np.zeros_like(weights_LC), weights_LC]), np.append(0.0, bias_L)
    weights_LC = weights_LC / scale_C
    return weights_LC, bias_L - weights_LC @ mean_C
