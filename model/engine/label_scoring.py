"""Scores of all labels of a job, computed in the same forward pass as the prompt.

A label's log-likelihood is the sum over its tokens of log P(token | prompt, earlier tokens). The
label trie runs behind the prompt with tree attention: each node attends to the prompt and to its
ancestors only.
Legend: R rows of logits, V vocabulary, S prompts, P label tokens (of all labels together).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tirazh.model.engine.label_trie import LabelTrie

_LOGSUMEXP_ROWS = 32


def label_logprobs(logits_RV: Tensor, trie: LabelTrie) -> list[float]:
    """Return the log-likelihood of every label for one prompt.

    logits_RV: float32 [1 + nodes, V]; row 0 belongs to the prompt's last token, row 1 + i to trie
    node i.
    """
    return sum_terms(token_logprobs(logits_RV, trie)[0].tolist(), trie)


def token_logprobs(logits_RV: Tensor, trie: LabelTrie) -> Tensor:
    """Return the log-probability of every token of every label, for several prompts.

    logits_RV: float32 [S * (1 + nodes), V], the rows of each prompt as in `label_logprobs`. Returns
    float64 [S, P] on the device of the logits, without waiting for that device; labels follow one
    another along P.
    """
    num_rows = 1 + trie.num_nodes
    nodes_P, tokens_P = _token_indices(trie, logits_RV.device)
    first_S = torch.arange(0, len(logits_RV), num_rows, device=logits_RV.device)
    rows_SP = first_S[:, None] + nodes_P
    # Only P of the V values of a row are needed: logsumexp reads the vocabulary once, log_softmax
    # would also write it.
    return logits_RV[rows_SP, tokens_P].double() - _logsumexp(logits_RV).double()[rows_SP]


def _logsumexp(logits_RV: Tensor) -> Tensor:
    """Return float32 [R]. Each call of torch gets the same number of rows: with another number it
    may add in another order, and a row's last bits would depend on its neighbours."""
    sums = []
    for part_RV in logits_RV.split(_LOGSUMEXP_ROWS):
        missing = _LOGSUMEXP_ROWS - len(part_RV)
        filled_RV = nn.functional.pad(part_RV, (0, 0, 0, missing)) if missing else part_RV
        sums.append(filled_RV.logsumexp(dim=-1)[: len(part_RV)])
    return torch.cat(sums)


def sum_terms(logprobs: Sequence[float], trie: LabelTrie) -> list[float]:
    """Return the log-likelihood of every label, given the P log-probabilities of the labels'
    tokens."""
    terms = iter(logprobs)
    return [sum(itertools.islice(terms, len(path))) for path in trie.paths]


@functools.lru_cache(maxsize=4)
def _token_indices(trie: LabelTrie, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the rows (within one prompt) and columns of the logits that predict the labels'
    tokens: int64 [P] each."""
    nodes = torch.tensor([node + 1 for path in trie.paths for node, _ in path])
    tokens = torch.tensor([token for path in trie.paths for _, token in path])
    return nodes.to(device), tokens.to(device)
