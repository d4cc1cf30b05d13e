"""From logits to the next token, in the original's order.

Repetition penalty and n-gram ban; divide by temperature; keep top_k; keep the nucleus top_p; draw. A row's draw depends
on its own logits, its seed and how many tokens it has: never on its neighbours, so a row alone and a row in any batch
get the same tokens. On a CPU a kernel of ours (`kernels/sampling.c`) draws for all rows at once; elsewhere torch does.
Legend: R rows, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tirazh.model.kernels.build import load_kernel
from tirazh.model.requests import SamplingParams
from tirazh.model.transfer import to_device

NO_TOKEN = -1
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class RowState:
    """What the choice of one row's next token depends on besides its logits. `token_ids`: prompt and completion, read
    only where `params.reads_history`; `num_new`: tokens of the completion so far."""

    params: SamplingParams
    seed: int
    token_ids: Sequence[int]
    num_new: int


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1) from a counter-based generator: SplitMix64's mixing (Steele et al. 2014) over both words."""
    state = (_mix(seed & _MASK) + (counter + 1) * 0x9E3779B97F4A7C15) & _MASK
    return (_mix(state) >> 11) * 2.0**-53


@torch.inference_mode()
def sample(logits_RV: Tensor, rows: Sequence[RowState], num_tokens: int) -> Tensor:
    """Choose every row's next token, int64 [R] on the logits' device; nothing waits for that device. logits_RV float32
    [R, V] may be changed in place; ids from `num_tokens` on are padding of the vocabulary and never chosen. A row whose
    logits are no numbers (NaN, or infinite by overflow) gets `NO_TOKEN`."""
    logits_RV = logits_RV[:, :num_tokens]
    for index, row in enumerate(rows):
        _penalise(logits_RV[index], row)
    if logits_RV.device.type == "cpu" and logits_RV.stride(1) == 1 and load_kernel("sampling") is not None:
        return choose_compiled(logits_RV, rows)
    return choose_together(logits_RV, rows)


def choose_compiled(logits_RV: Tensor, rows: Sequence[RowState]) -> Tensor:
    """The draws alone, by the compiled kernel; float32 on a CPU, rows contiguous. Raises MemoryError."""
    kernel = load_kernel("sampling")
    assert kernel is not None
    assert logits_RV.dtype == torch.float32
    assert logits_RV.shape[0] == len(rows)
    num_rows, num_tokens = logits_RV.shape
    params = [row.params for row in rows]
    temperatures = np.array([each.temperature for each in params], np.float32)
    top_ks = np.array([min(each.top_k, num_tokens) for each in params], np.int64)
    top_ps = np.array([each.top_p for each in params], np.float64)
    chances = np.array([uniform(row.seed, row.num_new) if row.params.temperature else 0 for row in rows], np.float64)
    tokens = np.empty(num_rows, np.int64)
    failed = kernel.choose_tokens(
        ctypes.c_void_p(logits_RV.data_ptr()),
        *map(ctypes.c_int64, (logits_RV.stride(0), num_rows, num_tokens)),
        *(ctypes.c_void_p(x.ctypes.data) for x in (temperatures, top_ks, top_ps, chances, tokens)),
        ctypes.c_int(torch.get_num_threads()),
    )
    if failed:
        raise MemoryError(f"no memory to sort {num_tokens} tokens")
    return torch.from_numpy(tokens)


def choose_together(logits_RV: Tensor, rows: Sequence[RowState]) -> Tensor:
    """The draws alone, by torch on any device."""
    highest_R, token_R = logits_RV.max(dim=-1)
    is_good_R = highest_R.isfinite()
    drawn = [index for index, row in enumerate(rows) if row.params.temperature]
    if drawn:
        index = to_device(torch.tensor(drawn), logits_RV.device)
        # A row of no numbers gets some, so that it is drawn like the others; its token is not used.
        some_RV = logits_RV[index].masked_fill(~is_good_R[index, None], 0.0)
        token_R[index] = _draw(some_RV, [rows[row] for row in drawn])
    return torch.where(is_good_R, token_R, NO_TOKEN)


def _penalise(logits_V: Tensor, row: RowState) -> None:
    if row.params.repetition_penalty != 1.0:
        seen = to_device(torch.tensor(sorted(set(row.token_ids))), logits_V.device)
        values = logits_V[seen]
        penalty = row.params.repetition_penalty
        logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
    banned = _banned_tokens(row.token_ids, row.params.no_repeat_ngram_size)
    if banned:
        logits_V[to_device(torch.tensor(banned), logits_V.device)] = -torch.inf


def _banned_tokens(token_ids: Sequence[int], size: int) -> list[int]:
    """Tokens that would complete an n-gram of `size` tokens that is already there."""
    if size == 0 or len(token_ids) < size:
        return []
    ids = list(token_ids)
    tail = ids[len(ids) - size + 1 :]
    return sorted({ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == tail})


def _draw(logits_RV: Tensor, rows: Sequence[RowState]) -> Tensor:
    """int64 [R]: keep top_k and the nucleus of each row, then find its number in the cumulative sum of the weights."""
    num_tokens, device = logits_RV.shape[1], logits_RV.device
    params = [row.params for row in rows]

    def column(values: list[float]) -> Tensor:
        return to_device(torch.tensor(values, dtype=torch.float64), device)[:, None]

    ranks = torch.arange(num_tokens, device=device)
    kept_RV, ids_RV = logits_RV.sort(dim=-1, descending=True, stable=True)
    scaled_RV = kept_RV.double() / column([each.temperature for each in params])
    weight_RV = torch.exp(scaled_RV - scaled_RV[:, :1])
    weight_RV = torch.where(ranks < column([each.top_k or num_tokens for each in params]), weight_RV, 0.0)
    sum_RV = weight_RV.cumsum(1)
    nucleus = column([each.top_p if 0 < each.top_p < 1 else 2.0 for each in params])
    weight_RV = torch.where(sum_RV - weight_RV < nucleus * sum_RV[:, -1:], weight_RV, 0.0)
    # Back in the vocabulary's order, in which every way of choosing adds up.
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
