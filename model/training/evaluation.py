"""Evaluation while a model trains: perplexity on held-out sequences, and accuracy of labels scored as classify does.

All workers run these together, each its share of the rows, so that sharded weights can be gathered. Used by
`training/loop.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tirazh.model.engine.label_scoring import label_logprobs
from tirazh.model.engine.label_trie import LabelTrie, build_trie
from tirazh.model.training.batch import build_microbatch
from tirazh.model.training.batch_order import share
from tirazh.model.training.label_file import LabelFile
from tirazh.model.training.sequence_store import SequenceStore


def perplexity(
    model: nn.Module, store: SequenceStore, role_weights: Sequence[float], *, size: int, device: str
) -> float:
    """exp of the mean loss over all tokens of the store that are taught, each counted as in training."""
    sums = torch.zeros(2, dtype=torch.float64)
    for indices in _own_microbatches(store, size):
        batch = build_microbatch([store.sequence(index) for index in indices], role_weights)
        sums[1] += float(batch.weights.sum())
        batch = batch.to(device)
        loss = float(model(batch.input_ids, batch.targets, batch.weights))
        sums[0] += loss if indices else 0.0
    loss_sum, weight = _added_up(sums, device).tolist()
    return math.exp(min(loss_sum / weight, 700.0)) if weight else float("nan")


def label_accuracy(
    model: nn.Module, store: SequenceStore, labels: LabelFile, *, size: int, device: str
) -> dict[str, float]:
    """Accuracy and macro-F1 of the likeliest label; `store` holds the prompts, in the order of `labels.gold`."""
    trie = build_trie(labels.token_ids)
    count = len(labels.names)
    confusion = torch.zeros(count, count, dtype=torch.float64)  # [right, chosen]
    for indices in _own_microbatches(store, max(1, size // max(1, len(_branches(trie))))):
        prompts = [store.sequence(index)[0].tolist() for index in indices] or [[0]]
        for index, chosen in zip(indices, _choose(model, prompts, trie, device), strict=False):
            confusion[labels.gold[index], chosen] += 1
    confusion = _added_up(confusion, device)
    right = confusion.diagonal()
    f1 = 2 * right / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)
    is_there = confusion.sum(1) > 0
    return {"accuracy": float(right.sum() / confusion.sum()), "macro_f1": float(f1[is_there].mean())}


def _choose(model: nn.Module, prompts: Sequence[list[int]], trie: LabelTrie, device: str) -> list[int]:
    """The likeliest label of each prompt. Every branch of the trie is run behind every prompt: the logits of a node are
    those behind its token on any branch that goes through it."""
    branches = _branches(trie)
    rows = [prompt + [trie.token_ids[node] for node in branch] for prompt in prompts for branch in branches]
    input_ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
    at: list[tuple[int, int]] = []
    for number, prompt in enumerate(prompts):
        first = number * len(branches)
        places = {-1: (first, len(prompt) - 1)}
        for offset, branch in enumerate(branches):
            places |= {node: (first + offset, len(prompt) + depth) for depth, node in enumerate(branch)}
        at += [places[node] for node in range(-1, len(trie.token_ids))]
    logits = model(input_ids.to(device), at=torch.tensor(at, device=device).T).cpu()
    chosen = []
    for logits_RV in logits.view(len(prompts), 1 + len(trie.token_ids), -1):
        scores = label_logprobs(logits_RV, trie)
        chosen.append(max(range(len(scores)), key=scores.__getitem__))
    return chosen


def _branches(trie: LabelTrie) -> list[list[int]]:
    """The nodes on each way from the prompt to a node that nothing follows; one empty way where there are no nodes."""
    inner = set(trie.parents)
    ways = []
    for node in range(len(trie.token_ids)):
        if node not in inner:
            way = [node]
            while trie.parents[way[0]] >= 0:
                way.insert(0, trie.parents[way[0]])
            ways.append(way)
    return ways or [[]]


def _own_microbatches(store: SequenceStore, size: int) -> list[list[int]]:
    indices = list(range(len(store)))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return share(indices, store.lengths(indices), rank=rank, world_size=world_size, size=size)


def _added_up(values: Tensor, device: str) -> Tensor:
    """Sums over all workers."""
    sums = values.to(device)
    dist.all_reduce(sums)
    return sums.cpu()
