"""From logits to the next token, in the original's order.

Repetition penalty and n-gram ban; divide by temperature; keep top_k; keep the nucleus top_p; draw. A row's draw depends
on its own logits, its seed and how many tokens it has: never on its neighbours, so a row alone and a row in any batch
get the same tokens. On a CPU a kernel of ours (`kernels/sampling.c`) draws for all rows at once; elsewhere torch does,
row after row. Legend: R rows, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.kernels.build import load_kernel
from model.requests import SamplingParams

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class RowState:
    """What the choice of one row's next token depends on besides its logits. `token_ids`: prompt and completion;
    `num_new`: tokens of the completion so far."""

    params: SamplingParams
    seed: int
    token_ids: Sequence[int]
    num_new: int


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1) from a counter-based generator: SplitMix64's mixing (Steele et al. 2014) over both words."""
    state = (_mix(seed & _MASK) + (counter + 1) * 0x9E3779B97F4A7C15) & _MASK
    return (_mix(state) >> 11) * 2.0**-53


@torch.inference_mode()
def sample(logits_RV: Tensor, rows: Sequence[RowState], num_tokens: int) -> list[int | None]:
    """Choose every row's next token. logits_RV float32 [R, V] may be changed in place; ids from `num_tokens` on are
    padding of the vocabulary and never chosen. A row whose logits are no numbers (NaN, or infinite by overflow) gets
    None."""
    logits_RV = logits_RV[:, :num_tokens]
    for index, row in enumerate(rows):
        _penalise(logits_RV[index], row)
    if logits_RV.device.type == "cpu" and logits_RV.stride(1) == 1 and load_kernel("sampling") is not None:
        return choose_compiled(logits_RV, rows)
    return choose_one_by_one(logits_RV, rows)


def choose_compiled(logits_RV: Tensor, rows: Sequence[RowState]) -> list[int | None]:
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
    return [None if token < 0 else token for token in tokens.tolist()]


def choose_one_by_one(logits_RV: Tensor, rows: Sequence[RowState]) -> list[int | None]:
    """The draws alone, by torch, row after row."""
    highest_R, best_R = logits_RV.max(dim=-1)
    is_good_R, greedy_R = highest_R.isfinite().tolist(), best_R.tolist()
    tokens: list[int | None] = []
    for index, row in enumerate(rows):
        if not is_good_R[index]:
            tokens.append(None)
        elif row.params.temperature == 0:
            tokens.append(greedy_R[index])
        else:
            tokens.append(_draw(logits_RV[index], row))
    return tokens


def _penalise(logits_V: Tensor, row: RowState) -> None:
    if row.params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(row.token_ids)), device=logits_V.device)
        values = logits_V[seen]
        penalty = row.params.repetition_penalty
        logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
    banned = _banned_tokens(row.token_ids, row.params.no_repeat_ngram_size)
    if banned:
        logits_V[torch.tensor(banned, device=logits_V.device)] = -torch.inf


def _banned_tokens(token_ids: Sequence[int], size: int) -> list[int]:
    """Tokens that would complete an n-gram of `size` tokens that is already there."""
    if size == 0 or len(token_ids) < size:
        return []
    ids = list(token_ids)
    tail = ids[len(ids) - size + 1 :]
    return sorted({ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == tail})


def _draw(logits_V: Tensor, row: RowState) -> int:
    params = row.params
    scaled_V = logits_V.double() / params.temperature
    chance = uniform(row.seed, row.num_new)
    has_nucleus = 0 < params.top_p < 1
    if not params.top_k and not has_nucleus:
        return _pick(torch.exp(scaled_V - scaled_V.max()), chance)
    kept, ids = scaled_V.sort(descending=True, stable=True)
    weights = torch.exp(kept[: params.top_k or None] - kept[0])
    total = weights.sum()
    if has_nucleus:
        before = weights.cumsum(0) - weights
        weights = weights[before < params.top_p * total]
    ids, order = ids[: len(weights)].sort()
    return int(ids[_pick(weights[order], chance)])


def _pick(weights: Tensor, chance: float) -> int:
    """Index by inverting the cumulative sum of unnormalised weights."""
    sums = weights.cumsum(0)
    index = int(torch.searchsorted(sums, chance * sums[-1], right=True))
    last = int(weights.nonzero()[-1])
    return min(index, last)


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
