"""Labels as a trie of tokens: all labels of a job are scored in the same pass as the prompt they continue.

A label's log-likelihood is the sum over its tokens of log P(token | prompt, earlier tokens). Tokens shared by labels
are computed once, and a label's last token is only read off the logits, never run.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tirazh.errors import RequestError

_ROWS_SUMMED = 32


@dataclass(frozen=True, slots=True)
class LabelTrie:
    """`token_ids[i]` continues token `parents[i]` (-1: the prompt); `depths[i]` = how many tokens lie between it and
    the prompt. `paths[l]` lists label l's (node whose logits are read, -1 for the prompt's last token; token id)."""

    token_ids: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    paths: tuple[tuple[tuple[int, int], ...], ...]


def build_trie(labels: Sequence[Sequence[int]]) -> LabelTrie:
    """Merge the labels' tokens into a trie. Raises RequestError for an empty label and for one said twice."""
    nodes: dict[tuple[int, ...], int] = {(): -1}
    token_ids: list[int] = []
    paths = []
    for label in labels:
        if not label:
            raise RequestError("a label has no tokens")
        for end in range(1, len(label)):
            key = tuple(label[:end])
            if key not in nodes:
                nodes[key] = len(token_ids)
                token_ids.append(key[-1])
        paths.append(tuple((nodes[tuple(label[:end])], label[end]) for end in range(len(label))))
    if len({tuple(label) for label in labels}) < len(labels):
        raise RequestError("two labels have the same tokens")
    keys = sorted((key for key in nodes if key), key=lambda key: nodes[key])
    parents = tuple(nodes[key[:-1]] for key in keys)
    return LabelTrie(tuple(token_ids), parents, tuple(len(key) - 1 for key in keys), tuple(paths))


def label_logprobs(logits_RV: Tensor, trie: LabelTrie) -> list[float]:
    """Log-likelihood of every label. logits_RV float32: row 0 of the prompt's last token, row 1 + i of trie node i."""
    return sum_terms(token_logprobs(logits_RV, trie)[0].tolist(), trie)


def token_logprobs(logits_RV: Tensor, trie: LabelTrie) -> Tensor:
    """Log-probability of every label's every token, one label behind the other, for prompts whose rows are as in
    `label_logprobs`, one prompt behind the other: float64 [prompts, tokens] on the logits' device, which is not waited
    for."""
    num_rows = 1 + len(trie.token_ids)
    nodes_P, tokens_P = _where(trie, logits_RV.device)
    first_S = torch.arange(0, len(logits_RV), num_rows, device=logits_RV.device)
    rows_SP = first_S[:, None] + nodes_P
    # Only these few are wanted, so the vocabulary is gone through once, for its sum.
    return logits_RV[rows_SP, tokens_P].double() - _logsumexp(logits_RV).double()[rows_SP]


def _logsumexp(logits_RV: Tensor) -> Tensor:
    """[R], always of as many rows at a time: of another number the sums might be taken in another order."""
    sums = []
    for part_RV in logits_RV.split(_ROWS_SUMMED):
        missing = _ROWS_SUMMED - len(part_RV)
        filled_RV = nn.functional.pad(part_RV, (0, 0, 0, missing)) if missing else part_RV
        sums.append(filled_RV.logsumexp(dim=-1)[: len(part_RV)])
    return torch.cat(sums)


def sum_terms(logprobs: Sequence[float], trie: LabelTrie) -> list[float]:
    """Log-likelihood of every label out of its tokens'."""
    terms = iter(logprobs)
    return [sum(itertools.islice(terms, len(path))) for path in trie.paths]


@functools.lru_cache(maxsize=4)
def _where(trie: LabelTrie, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of the logits that the labels' tokens are read at."""
    nodes = torch.tensor([node + 1 for path in trie.paths for node, _ in path])
    tokens = torch.tensor([token for path in trie.paths for _, token in path])
    return nodes.to(device), tokens.to(device)
