"""Dense attention that also returns the log-sum-exp of its scores, and the merge of two such
results (split-KV)."""

from __future__ import annotations

import torch
from torch import Tensor

from tirazh.model.layers.elementwise import in_whole_vectors


def additive_mask(visible: Tensor, like: Tensor) -> Tensor:
    """The mask that is added to scores: 0 where `visible`, else minus infinity; dtype and device of
    `like`."""
    zeros = torch.zeros(visible.shape, dtype=like.dtype, device=visible.device)
    return zeros.masked_fill(~visible, -torch.inf).to(like.device)


def attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores.

    q [..., H, T, D], k and v [..., K, S, D] with H a multiple of K; mask bool or additive,
    broadcast to [..., H, T, S]. With `softcap` the scaled scores are limited by a tanh before the
    mask is added (Gemma 2, arXiv 2408.00118).
    Returns [..., H, T, D] and float32 [..., H, T].
    """
    groups = q.shape[-3] // k.shape[-3]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, dim=-3) for x in (k, v))
    if mask is not None and mask.dtype == torch.bool:
        mask = additive_mask(mask, q)
    # A private operation of torch, because no public one returns the log-sum-exp; on a CPU it does
    # not take float16.
    if q.device.type == "cpu" and q.dtype != torch.float16 and softcap is None:
        squeeze = q.dim() == 3
        if squeeze:
            q, k, v = q[None], k[None], v[None]
        if mask is not None:
            mask = mask[None] if squeeze and mask.dim() == 3 else mask
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask, scale=scale)
        return (out[0], lse[0]) if squeeze else (out, lse)
    if q.dtype == torch.float16:  # its largest number is 65,504: a score overflows before it is scaled
        q, k = q.float(), k.float()
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    lse = torch.logsumexp(scores, dim=-1)
    return torch.exp(scores - lse[..., None]).to(v.dtype) @ v, lse


def merge_attention(
    out_NHD: Tensor, lse_NH: Tensor, other_NHD: Tensor, other_lse_NH: Tensor, has_other_N: Tensor
) -> Tensor:
    """Merge attention over two sets of keys, [N, H, D] with log-sum-exp [N, H] each, into attention
    over both.

    Rows for which `has_other_N` (bool [N]) is false keep the first result, even if the other holds
    NaN for them.
    """
    # The other keys' share of the whole softmax: exp(other_lse) / (exp(lse) + exp(other_lse)).
    share_NH = in_whole_vectors(torch.sigmoid, other_lse_NH - lse_NH)
    share = torch.where(has_other_N[:, None], share_NH, 0.0)[:, :, None].to(out_NHD.dtype)
    return torch.where(has_other_N[:, None, None], out_NHD + share * (other_NHD - out_NHD), out_NHD)
