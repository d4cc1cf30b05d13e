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

from tirazh.model.attention.token_layouts import PromptsWithTrie
from tirazh.model.engine.labels.scoring import token_logprobs
from tirazh.model.engine.labels.trie import LabelTrie, build_trie, sum_terms
from tirazh.model.training.batch import read_microbatch
from tirazh.model.training.batch_order import share
from tirazh.model.training.label_file import LabelFile
from tirazh.model.training.sequence_store import SequenceStore

_ROWS = 1024  # tokens in a forward pass of short prompts
_LOGIT_ROWS = 512  # rows of logits that are held at once


def perplexity(
    model: nn.Module, store: SequenceStore, role_weights: Sequence[float], *, size: int, device: str
) -> float:
    """Return exp of the mean loss over the tokens of the store, weighted as in training."""
    sums = torch.zeros(2, dtype=torch.float64)
    for indices in _own_microbatches(store, size):
        batch = read_microbatch(store, indices, role_weights)
        sums[1] += float(batch.weights.sum())
        batch = batch.to(device)
        loss = float(model(batch.input_ids, batch.targets, batch.weights, layout=batch.layout))
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
    count = len(labels.names)
    confusion = torch.zeros(count, count, dtype=torch.float64)  # [gold, predicted]
    for indices in _own_microbatches(store, _prompts_at_once(store, trie, size)):
        prompts = [store.sequence(index)[0].tolist() for index in indices] or [[0]]
        for index, scores in zip(indices, label_scores(model, prompts, trie, device), strict=False):
            confusion[labels.gold[index], max(range(count), key=scores.__getitem__)] += 1
    confusion = _sum_over_workers(confusion, device)
    correct = confusion.diagonal()
    f1 = 2 * correct / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)
    occurs = confusion.sum(1) > 0
    return {"accuracy": float(correct.sum() / confusion.sum()), "macro_f1": float(f1[occurs].mean())}


def label_scores(model: nn.Module, prompts: Sequence[list[int]], trie: LabelTrie, device: str) -> list[list[float]]:
    """Return the log-likelihood of every label for each prompt.

    The nodes of the trie run behind each prompt in the same forward pass, so that a prompt is computed once.
    """
    width = max(map(len, prompts))
    input_ids = torch.zeros(len(prompts), width + trie.num_nodes, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = torch.tensor(prompt)
    input_ids[:, width:] = torch.tensor(trie.token_ids)
    columns = [
        [len(prompt) - 1 if node < 0 else width + node for node in trie.read_nodes] for prompt in prompts
    ]  # node -1 is the prompt's last token
    at = torch.stack([torch.arange(len(prompts)).repeat_interleave(trie.num_read), torch.tensor(columns).flatten()])
    layout = PromptsWithTrie([len(prompt) for prompt in prompts], trie.parents, device)
    logits_RV = model(input_ids.to(device), layout=layout, at=at.to(device))
    return [sum_terms(terms, trie) for terms in token_logprobs(logits_RV, trie).tolist()]


def _prompts_at_once(store: SequenceStore, trie: LabelTrie, size: int) -> int:
    """Return how many prompts run in a forward pass, the same on every worker.

    At least the `size` sequences of a training pass, or as many short ones as give the matmuls enough rows;
    fewer where the logits of the trie's nodes would take more memory than those of a sequence.
    """
    longest = int(store.lengths(range(len(store))).max())
    by_rows = max(size, _ROWS // (longest + trie.num_nodes))
    return max(1, min(by_rows, _LOGIT_ROWS // trie.num_read))


def _own_microbatches(store: SequenceStore, size: int) -> list[list[int]]:
    indices = list(range(len(store)))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return share(indices, store.lengths(indices), rank=rank, world_size=world_size, size=size)


def _sum_over_workers(values: Tensor, device: str) -> Tensor:
    sums = values.to(device)
    dist.all_reduce(sums)
    return sums.cpu()
