"""Sampling: from logits to the next token, in the order of the original ru-gpts code.

Bias, penalties and bans; the mask of a grammar; division by temperature; min-p; top-k; top-p (nucleus sampling);
sampling. A row's token depends on its own logits, its seed and its number of tokens, never on its
neighbours, so a row gets the same tokens alone and in any batch. On a CPU a compiled kernel
(`kernels/sampling.c`) samples all rows at once, elsewhere torch does.
Legend: R rows, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tirazh.model.engine.logit_edits import LogitEdits
from tirazh.model.engine.logprobs import log_sums
from tirazh.model.kernels.build import load_kernel
from tirazh.model.requests import SamplingParams
from tirazh.model.transfer import to_device

NO_TOKEN = -1
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class RowState:
    """What a row's next token depends on besides its logits. `edits` are None where
    `params.edits_logits` is false; `num_new`: tokens of the completion so far. `mask`: uint32
    [at least V / 32], one bit a token, of which only those that are set may be chosen (None: all)."""

    params: SamplingParams
    seed: int
    edits: LogitEdits | None
    num_new: int
    mask: NDArray[np.uint32] | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next token of R rows. `tokens`: int64 [R]; `logprobs`: float64 [R], the natural logarithm of
    each token's probability under the logits as the model gave them (temperature 1, before all edits)."""

    tokens: Tensor
    logprobs: Tensor


def uniform(seed: int, counter: int) -> float:
    """Return a random number in [0, 1) from a counter-based generator: SplitMix64's mixing function
    (Steele et al. 2014) applied to seed and counter."""
    state = (_mix(seed & _MASK) + (counter + 1) * 0x9E3779B97F4A7C15) & _MASK
    return (_mix(state) >> 11) * 2.0**-53


@torch.inference_mode()
def sample(logits_RV: Tensor, rows: Sequence[RowState], num_tokens: int) -> Sampled:
    """Sample the next token of every row, on the device of the logits, without waiting for that device.

    logits_RV: float32 [R, V]; may be changed in place. Ids from `num_tokens` on pad the vocabulary
    and are never sampled. A row whose greatest logit is not finite (NaN, or infinite by overflow)
    gets `NO_TOKEN`.
    """
    logits_RV = logits_RV[:, :num_tokens]
    edits = find_edits(rows, logits_RV.device)
    untouched_sums_E = None if edits is None else log_sums(edits.rows_of(logits_RV))
    untouched_N = None if edits is None else edits.apply(logits_RV)
    if logits_RV.device.type == "cpu" and logits_RV.stride(1) == 1 and load_kernel("sampling") is not None:
        tokens_R, sums_R, logprobs_R = choose_compiled(logits_RV, rows)
        if edits is None:
            return Sampled(tokens_R, logprobs_R)
    else:
        sums_R = log_sums(logits_RV)
        apply_masks(logits_RV, rows)
        tokens_R = choose_together(logits_RV, rows)
    if edits is not None and untouched_N is not None and untouched_sums_E is not None:
        edits.undo(logits_RV, untouched_N)
        sums_R[edits.edited_E] = untouched_sums_E
    values_R = logits_RV.gather(1, tokens_R.clamp(min=0)[:, None])[:, 0].double()
    return Sampled(tokens_R, values_R - sums_R)


@dataclass(frozen=True, slots=True)
class BatchedEdits:
    """The edits of some rows of logits, as tensors on their device.

    `edited_E`: int64, the rows that have edits, of `num_rows`. `rows_N` and `ids_N`: int64, rows and tokens of all
    logits that change: first the T ones that the rows' tables hold, then those of banned tokens, which may be the
    same. `values_3T`: float32, as of `TokenEdits.values`.
    """

    num_rows: int
    edited_E: Tensor
    rows_N: Tensor
    ids_N: Tensor
    values_3T: Tensor

    def rows_of(self, logits_RV: Tensor) -> Tensor:
        """Return the logits of the rows that have edits; not a copy where all have."""
        return logits_RV if len(self.edited_E) == self.num_rows else logits_RV[self.edited_E]

    def apply(self, logits_RV: Tensor) -> Tensor:
        """Edit logits in place, in the order that `SamplingParams` gives. Returns what they were, float32 [N]."""
        untouched_N = logits_RV[self.rows_N, self.ids_N]
        bias_T, factor_T, minus_T = self.values_3T
        in_tables = len(bias_T)
        new_T = untouched_N[:in_tables] + bias_T
        new_T = torch.where(new_T > 0, new_T / factor_T, new_T * factor_T) - minus_T
        logits_RV[self.rows_N[:in_tables], self.ids_N[:in_tables]] = new_T
        logits_RV[self.rows_N[in_tables:], self.ids_N[in_tables:]] = -torch.inf
        return untouched_N

    def undo(self, logits_RV: Tensor, untouched_N: Tensor) -> None:
        """Set the logits back to what they were."""
        logits_RV[self.rows_N, self.ids_N] = untouched_N


def find_edits(rows: Sequence[RowState], device: torch.device) -> BatchedEdits | None:
    """Gather the edits of rows; None where none has any."""
    edited = [(index, row.edits, row.num_new) for index, row in enumerate(rows) if row.edits is not None]
    if not edited:
        return None
    indices = np.array([index for index, _, _ in edited])
    tables, banned = [edits.table for _, edits, _ in edited], [edits.banned(num_new) for _, edits, num_new in edited]
    ids = [*(table.ids for table in tables), *banned]
    rows_N = np.repeat(np.concatenate([indices, indices]), [len(each) for each in ids])
    values_3T = np.concatenate([table.values for table in tables], axis=1)
    arrays = (indices, rows_N, np.concatenate(ids), values_3T)
    return BatchedEdits(len(rows), *(to_device(torch.from_numpy(each), device) for each in arrays))


def choose_compiled(logits_RV: Tensor, rows: Sequence[RowState]) -> tuple[Tensor, Tensor, Tensor]:
    """Sample by the compiled kernel, after edits; it applies the masks. Returns the tokens, int64 [R], and float64 [R]
    `log_sums` of these logits before the masks, and the tokens' logits less those. logits_RV: float32 on a CPU, each
    row contiguous. Raises MemoryError, and ValueError for other logits and for too short masks."""
    kernel = load_kernel("sampling")
    assert kernel is not None
    if logits_RV.dtype != torch.float32 or len(logits_RV) != len(rows) or logits_RV.stride(1) != 1:
        raise ValueError(
            f"the logits of {len(rows)} rows must be float32, got {logits_RV.dtype} {list(logits_RV.shape)}"
        )
    num_rows, num_tokens = logits_RV.shape
    params = [row.params for row in rows]
    temperatures = np.array([each.temperature for each in params], np.float32)
    top_ks = np.array([min(max(each.top_k, 0), num_tokens) for each in params], np.int64)
    top_ps = np.array([each.top_p for each in params], np.float64)
    min_ps = np.array([each.min_p for each in params], np.float32)
    chances = np.array([uniform(row.seed, row.num_new) if row.params.temperature else 0 for row in rows], np.float64)
    masks = np.array([_address(row.mask, num_tokens) for row in rows], np.uint64)
    tokens, (sums, logprobs) = np.empty(num_rows, np.int64), np.empty((2, num_rows), np.float64)
    arrays = (masks, temperatures, min_ps, top_ks, top_ps, chances, tokens, sums, logprobs)
    failed = kernel.choose_tokens(
        ctypes.c_void_p(logits_RV.data_ptr()),
        *map(ctypes.c_int64, (logits_RV.stride(0), num_rows, num_tokens)),
        *(ctypes.c_void_p(x.ctypes.data) for x in arrays),
        ctypes.c_int(torch.get_num_threads()),
    )
    if failed:
        raise MemoryError(f"no memory to sort {num_tokens} tokens")
    return torch.from_numpy(tokens), torch.from_numpy(sums), torch.from_numpy(logprobs)


def choose_together(logits_RV: Tensor, rows: Sequence[RowState]) -> Tensor:
    """Sample by torch on any device, after edits and masks. Returns int64 [R]."""
    highest_R, token_R = logits_RV.max(dim=-1)
    is_finite_R = highest_R.isfinite()
    sampled = [index for index, row in enumerate(rows) if row.params.temperature]
    if sampled:
        index = to_device(torch.tensor(sampled), logits_RV.device)
        # A non-finite row is sampled with logits of 0, so that all rows take the same path; its
        # token is not used.
        finite_RV = logits_RV[index].masked_fill(~is_finite_R[index, None], 0.0)
        token_R[index] = _sample_nucleus(finite_RV, [rows[row] for row in sampled])
    return torch.where(is_finite_R, token_R, NO_TOKEN)


def apply_masks(logits_RV: Tensor, rows: Sequence[RowState]) -> None:
    """Set the logits of tokens that the rows' masks exclude to minus infinity, all rows in one operation."""
    masked = [(index, row.mask) for index, row in enumerate(rows) if row.mask is not None]
    if not masked:
        return
    # [rows, W, 32] bits: the words cross to the device, not a byte for every token.
    words = torch.from_numpy(np.stack([mask for _, mask in masked]).view(np.int32))
    words_RW = to_device(words, logits_RV.device)
    bits = torch.arange(32, device=logits_RV.device, dtype=torch.int32)
    allowed_RV = (words_RW[:, :, None] >> bits & 1).flatten(1)[:, : logits_RV.shape[1]].bool()
    index_R = to_device(torch.tensor([index for index, _ in masked]), logits_RV.device)
    logits_RV[index_R] = logits_RV[index_R].masked_fill(~allowed_RV, -torch.inf)


def _address(mask: NDArray[np.uint32] | None, num_tokens: int) -> int:
    """The address of a mask; 0 without one."""
    if mask is None:
        return 0
    if mask.dtype != np.uint32 or not mask.flags.c_contiguous or 32 * mask.size < num_tokens:
        raise ValueError(f"a mask of {num_tokens} tokens must be contiguous uint32, got {mask.dtype} {mask.shape}")
    return int(mask.__array_interface__["data"][0])


def _sample_nucleus(logits_RV: Tensor, rows: Sequence[RowState]) -> Tensor:
    """Return int64 [R]: keep min_p, top_k and the nucleus of each row, then look its random number up in
    the cumulative sum of the weights (inverse transform sampling)."""
    num_tokens, device = logits_RV.shape[1], logits_RV.device
    params = [row.params for row in rows]

    def column(values: list[float]) -> Tensor:
        return to_device(torch.tensor(values, dtype=torch.float64), device)[:, None]

    ranks = torch.arange(num_tokens, device=device)
    kept_RV, ids_RV = logits_RV.sort(dim=-1, descending=True, stable=True)
    scaled_RV = kept_RV.double() / column([each.temperature for each in params])
    weight_RV = torch.exp(scaled_RV - scaled_RV[:, :1])  # the greatest is 1
    if any(each.min_p for each in params):
        weight_RV = torch.where(weight_RV >= column([each.min_p for each in params]), weight_RV, 0.0)
    weight_RV = torch.where(ranks < column([each.top_k or num_tokens for each in params]), weight_RV, 0.0)
    sum_RV = weight_RV.cumsum(1)
    nucleus = column([each.top_p if 0 < each.top_p < 1 else 2.0 for each in params])
    weight_RV = torch.where(sum_RV - weight_RV < nucleus * sum_RV[:, -1:], weight_RV, 0.0)
    # Back to the vocabulary's order, in which all implementations add the weights up.
    weight_RV = torch.zeros_like(weight_RV).scatter_(1, ids_RV, weight_RV)
    sum_RV = weight_RV.cumsum(1)
    chance = column([uniform(row.seed, row.num_new) for row in rows])
    index_R = torch.searchsorted(sum_RV, chance * sum_RV[:, -1:], right=True)[:, 0]
    last_R = torch.where(weight_RV > 0, ranks, -1).amax(1)
    return torch.minimum(index_R, last_R)


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
