"""Log-probabilities of tokens under the logits as the model gave them.

log P(token) = its logit less the logarithm of the sum of exp(logit) over the vocabulary. A row's bits
do not depend on the rows beside it.
Legend: R rows of logits, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tirazh.model.engine.sliced_logits import SlicedLogits
from tirazh.model.kernels.build import load_kernel
from tirazh.model.transfer import to_device

_LOGSUMEXP_ROWS = 32


def log_sums(logits_RV: Tensor) -> Tensor:
    """Return log(sum(exp(logits))) of every row: float64 [R] on the device of the logits, NaN where the
    greatest logit is not finite.

    logits_RV: float32 [R, V]. On a CPU a compiled kernel adds floats in blocks and the blocks in
    float64, elsewhere torch does, in float32.
    """
    kernel = load_kernel("sampling") if logits_RV.device.type == "cpu" and logits_RV.stride(1) == 1 else None
    if kernel is None or logits_RV.dtype != torch.float32:
        return logsumexp(logits_RV).double()
    sums_R = torch.empty(len(logits_RV), dtype=torch.float64)
    kernel.sum_logits(
        ctypes.c_void_p(logits_RV.data_ptr()),
        *map(ctypes.c_int64, (logits_RV.stride(0), *logits_RV.shape)),
        ctypes.c_void_p(sums_R.data_ptr()),
        ctypes.c_int(torch.get_num_threads()),
    )
    return sums_R


def text_logprobs(
    logits: Tensor | SlicedLogits, readers: Sequence[tuple[slice, Sequence[int]]], num_tokens: int
) -> Tensor:
    """Return the log-probabilities of tokens of several texts, one text's behind another's: float64 [tokens].

    Each reader is some rows of the logits, float32 [R, V], and the token that each of them predicts;
    columns from `num_tokens` on are ignored. Of sliced logits only one slice is held at a time.
    """
    rows = [row for part, _ in readers for row in range(part.start, part.stop)]
    targets_R = torch.zeros(len(logits), dtype=torch.int64)
    targets_R[rows] = torch.tensor([token for _, tokens in readers for token in tokens])
    slices = logits.slices() if isinstance(logits, SlicedLogits) else [(0, logits)]
    terms = []
    for first, part_RV in slices:
        own_R = to_device(targets_R[first : first + len(part_RV)], part_RV.device)
        kept_RV = part_RV[:, :num_tokens]
        terms.append(kept_RV.gather(1, own_R[:, None])[:, 0].double() - log_sums(kept_RV))
    all_R = torch.cat(terms)
    return all_R if len(rows) == len(all_R) else all_R[to_device(torch.tensor(rows), all_R.device)]


def logsumexp(logits_RV: Tensor) -> Tensor:
    """Return float32 [R]. Each call of torch gets the same number of rows: with another number it
    may add in another order, and a row's last bits would depend on its neighbours."""
    sums = []
    for part_RV in logits_RV.split(_LOGSUMEXP_ROWS):
        missing = _LOGSUMEXP_ROWS - len(part_RV)
        filled_RV = nn.functional.pad(part_RV, (0, 0, 0, missing)) if missing else part_RV
        sums.append(filled_RV.logsumexp(dim=-1)[: len(part_RV)])
    return torch.cat(sums)
