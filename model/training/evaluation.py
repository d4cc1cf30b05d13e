"""Evaluation during training: held-out perplexity, and the accuracy of labels scored as `classify` does.

All workers call these functions together, each on its share of the rows, so that sharded weights
can be gathered.
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
    """Return exp of the mean loss over the tokens of the store, weighted as in training."""
    sums = torch.zeros(2, dtype=torch.float64)
    for indices in _own_microbatches(store, size):
        batch = build_microbatch([store.sequence(index) for index in indices], role_weights)
        sums[1] += float(batch.weights.sum())
        batch = batch.to(device)
        loss = float(model(batch.input_ids, batch.targets, batch.weights))
        # A rank without rows runs an empty microbatch too: ZeRO-3 gathers need every rank.
        sums[0] += loss if indices else 0.0
    loss_sum, weight = _sum_over_workers(sums, device).tolist()
    # exp overflows a float64 above 709.
    return math.exp(min(loss_sum / weight, 700.0)) if weight else float("nan")


def label_accuracy(
    model: nn.Module, store: SequenceStore, labels: LabelFile, *, size: int, device: str
) -> dict[str, float]:
    """Return accuracy and macro-F1 of the most likely label.

    `store` holds the prompts, in the order of `gold`.
    """
    trie = build_trie(labels.token_ids, labels.ends)
    # Every prompt is run once per branch, so fewer prompts fit into a microbatch.
    count = len(labels.names)
    confusion = torch.zeros(count, count, dtype=torch.float64)  # [gold, predicted]
    for indices in _own_microbatches(store, max(1, size // max(1, len(_branches(trie))))):
        prompts = [store.sequence(index)[0].tolist() for index in indices] or [[0]]
        for index, predicted in zip(indices, _predict(model, prompts, trie, device), strict=False):
            confusion[labels.gold[index], predicted] += 1
    confusion = _sum_over_workers(confusion, device)
    correct = confusion.diagonal()
    f1 = 2 * correct / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)
    occurs = confusion.sum(1) > 0
    return {"accuracy": float(correct.sum() / confusion.sum()), "macro_f1": float(f1[occurs].mean())}


def _predict(model: nn.Module, prompts: Sequence[list[int]], trie: LabelTrie, device: str) -> list[int]:
    """Return the most likely label of each prompt.

    Every prompt is run once with each branch of the trie appended. The logits of a node are those
    at its token on any branch that contains it.
    """
    branches = _branches(trie)
    rows = [prompt + [trie.token_ids[node] for node in branch] for prompt in prompts for branch in branches]
    input_ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
    at: list[tuple[int, int]] = []
    for number, prompt in enumerate(prompts):
        first = number * len(branches)
        positions = {-1: (first, len(prompt) - 1)}  # node -1 is the end of the prompt
        for offset, branch in enumerate(branches):
            positions |= {node: (first + offset, len(prompt) + depth) for depth, node in enumerate(branch)}
        at += [positions[node] for node in range(-1, len(trie.token_ids))]
    logits = model(input_ids.to(device), at=torch.tensor(at, device=device).T).cpu()
    predicted = []
    for logits_RV in logits.view(len(prompts), 1 + len(trie.token_ids), -1):
        scores = label_logprobs(logits_RV, trie)
        predicted.append(max(range(len(scores)), key=scores.__getitem__))
    return predicted


def _branches(trie: LabelTrie) -> list[list[int]]:
    """Return the nodes on each path from the root to a leaf; one empty path when the trie has no nodes."""
    inner = set(trie.parents)
    paths = []
    for node in range(len(trie.token_ids)):
        if node not in inner:
            path = [node]
            while trie.parents[path[0]] >= 0:
                path.insert(0, trie.parents[path[0]])
            paths.append(path)
    return paths or [[]]


def _own_microbatches(store: SequenceStore, size: int) -> list[list[int]]:
    indices = list(range(len(store)))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return share(indices, store.lengths(indices), rank=rank, world_size=world_size, size=size)


def _sum_over_workers(values: Tensor, device: str) -> Tensor:
    sums = values.to(device)
    dist.all_reduce(sums)
    return sums.cpu()
