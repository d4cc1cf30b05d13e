"""The loss of many tokens with few copies of their logits, which are the largest tensor of a step.

torch's own `cross_entropy` of bfloat16 logits holds them in float32 three more times: converted, as
log-probabilities, and as gradients. Here they are converted some rows at a time, and the gradient
takes the place of the logits.
Legend: N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SLICE = {"cpu": 1 << 20, "cuda": 1 << 26}  # logits that are held in float32 at once: few on a CPU, for its caches


def summed_cross_entropy(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """Return the weighted sum of the losses, a float32 scalar.

    logits_NV: of any floating dtype, and contiguous; the backward pass overwrites them with their gradient, so
    nothing else may read them. targets_N: int64. weights_N: float32. The arithmetic is that of float32.
    """
    loss: Tensor = _SummedCrossEntropy.apply(logits_NV, targets_N, weights_N)  # type: ignore[no-untyped-call]
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
        size = _num_rows(logits_NV)
        scratch_RV, sums = _scratch(logits_NV, size), []
        for part_RV in logits_NV.split(size):
            top_R1 = part_RV.amax(dim=1, keepdim=True).float()
            exp_RV = torch.sub(part_RV, top_R1, out=scratch_RV[: len(part_RV)]).exp_()
            sums.append(exp_RV.sum(dim=1).log_().add_(top_R1[:, 0]))
        sums_N = torch.cat(sums)
        ctx.save_for_backward(logits_NV, targets_N, weights_N, sums_N)
        own_N = logits_NV.gather(1, targets_N[:, None])[:, 0].float()
        return ((sums_N - own_N) * weights_N).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Of a token's loss: its weight times (softmax of its logits - 1 at the target)."""
        logits_NV, targets_N, weights_N, sums_N = ctx.saved_tensors
        scales_N1 = (weights_N * grad)[:, None]
        size = _num_rows(logits_NV)
        scratch_RV = _scratch(logits_NV, size)
        parts = (x.split(size) for x in (logits_NV, targets_N[:, None], scales_N1, sums_N[:, None]))
        for part_RV, targets_R1, scales_R1, sums_R1 in zip(*parts, strict=True):
            grad_RV = torch.sub(part_RV, sums_R1, out=scratch_RV[: len(part_RV)]).exp_().mul_(scales_R1)
            grad_RV.scatter_add_(1, targets_R1, -scales_R1)
            part_RV.copy_(grad_RV)
        return logits_NV, None, None


def _scratch(logits_NV: Tensor, num_rows: int) -> Tensor:
    """Return memory for some rows in float32; a new piece for each of them would cost as much as the arithmetic."""
    shape = (min(num_rows, len(logits_NV)), logits_NV.shape[1])
    return torch.empty(shape, dtype=torch.float32, device=logits_NV.device)


def _num_rows(logits_NV: Tensor) -> int:
    return max(1, _SLICE.get(logits_NV.device.type, _SLICE["cpu"]) // logits_NV.shape[1])
