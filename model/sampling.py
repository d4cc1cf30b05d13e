"""From logits to the next token, in the original's order.

Repetition penalty and n-gram ban; divide by temperature; keep top_k; keep the nucleus top_p; draw. A row's draw depends
on its own logits, its seed and how many tokens it has: never on its neighbours, so a row alone and a row in any batch
get the same tokens. Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.requests import SamplingParams

_MASK = (1 << 64) - 1
_FEW = 1024  # a nucleus is looked for among this many likeliest tokens before all are sorted


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
    logits_RV[:, num_tokens:] = -torch.inf
    for index, row in enumerate(rows):
        _penalise(logits_RV[index], row)
    highest_R, best_R = _highest(logits_RV)
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


def _highest(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    """Every row's highest logit and its token. A NaN anywhere in a row is its highest."""
    if logits_RV.device.type != "cpu":
        return logits_RV.max(dim=-1)
    best_R = torch.from_numpy(logits_RV.numpy().argmax(axis=1))  # numpy's uses whole vectors, torch's does not
    return logits_RV.gather(1, best_R[:, None])[:, 0], best_R


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
    if params.top_k:
        kept, ids = scaled_V.topk(min(params.top_k, len(scaled_V)))
        weights = torch.exp(kept - kept[0])
        total = weights.sum()
    else:
        kept, ids = scaled_V.topk(min(_FEW, len(scaled_V)))
        weights = torch.exp(kept - kept[0])
        total = torch.exp(scaled_V - kept[0]).sum()
        if weights.sum() < params.top_p * total:
            kept, ids = scaled_V.sort(descending=True, stable=True)
            weights = torch.exp(kept - kept[0])
    if has_nucleus:
        before = weights.cumsum(0) - weights
        weights = weights[before < params.top_p * total]
    return int(ids[_pick(weights, chance)])


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
