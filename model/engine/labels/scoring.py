"""Scores of all labels of a job, computed in the same forward pass as the prompt.

A label's log-likelihood is the sum over its tokens of log P(token | prompt, earlier tokens). Where one
label begins another, that sum alone would never let the longer one win; each label's then also holds the
logarithm of the probability that one of the trie's `ends` follows it. The label trie runs behind the prompt
with tree attention: each node attends to the prompt and to its ancestors only.
Legend: R rows of logits, V vocabulary, S prompts, P terms: a prompt's label tokens that are scored, one
label's behind another's, and behind them the labels' ends, if they are scored.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from tirazh.model.engine.labels.trie import LabelTrie, sum_terms
from tirazh.model.engine.logprobs import logsumexp
from tirazh.model.engine.sliced_logits import SlicedLogits

_MAX_KEPT = 64  # pieces of tries whose rows and columns are kept; each takes some kilobytes


def label_logprobs(logits_RV: Tensor, trie: LabelTrie) -> list[float]:
    """Return the log-likelihood of every label for one prompt.

    logits_RV: float32 [nodes that are read, V], in the order of `trie.read_nodes`: row 0 belongs to the
    prompt's last token, row 1 + i to trie node i, unless some are not read.
    """
    return sum_terms(token_logprobs(logits_RV, trie)[0].tolist(), trie)


def token_logprobs(logits_RV: Tensor, trie: LabelTrie) -> Tensor:
    """Return all terms of the labels' log-likelihoods, for several prompts.

    logits_RV: float32 [S * nodes that are read, V], the rows of each prompt as in `label_logprobs`. Returns
    float64 [S, P] on the device of the logits, without waiting for that device.
    """
    num_rows = trie.num_read
    nodes_P, tokens_P = _token_indices(trie, logits_RV.device)
    first_S = torch.arange(0, len(logits_RV), num_rows, device=logits_RV.device)
    rows_SP = first_S[:, None] + nodes_P
    # Only P of the V values of a row are needed: logsumexp reads the vocabulary once, log_softmax
    # would also write it.
    sums_R = logsumexp(logits_RV).double()
    terms_SP = logits_RV[rows_SP, tokens_P].double() - sums_R[rows_SP]
    if not trie.ends:
        return terms_SP
    leaves_SL = first_S[:, None] + _leaf_rows(trie, logits_RV.device)
    ends_R = logsumexp(logits_RV[:, _end_columns(trie, logits_RV.device)]).double() - sums_R
    return torch.cat([terms_SP, ends_R[leaves_SL]], dim=1)


def prompt_terms(logits_RV: Tensor | SlicedLogits, rows: Sequence[slice], trie: LabelTrie, num_tokens: int) -> Tensor:
    """Return the terms of several prompts as `token_logprobs`, whose logits are `rows` of a step's.

    Columns from `num_tokens` on are ignored.
    """
    if not trie.num_read:  # a piece of a trie that holds the last tokens of labels alone
        return torch.empty(len(rows), 0, dtype=torch.float64)
    if isinstance(logits_RV, SlicedLogits):
        return sliced_token_logprobs(logits_RV, [each.start for each in rows], trie, num_tokens)
    parts = [logits_RV[each] for each in rows]
    # Copying the logits is avoided where it can be: a vocabulary's row is large.
    if sum(map(len, parts)) == len(logits_RV):
        parts = [logits_RV]
    return token_logprobs((parts[0] if len(parts) == 1 else torch.cat(parts))[:, :num_tokens], trie)


def sliced_token_logprobs(logits: SlicedLogits, first_rows: Sequence[int], trie: LabelTrie, num_tokens: int) -> Tensor:
    """Return the same as `token_logprobs` for logits that are not held all at once.

    `first_rows` are the first rows of the prompts; columns from `num_tokens` on are ignored.
    """
    nodes_P, tokens_P = _token_indices(trie, torch.device("cpu"))
    first_S = torch.tensor(first_rows)
    rows_SP = first_S[:, None] + nodes_P
    tokens_SP = tokens_P.expand_as(rows_SP)
    leaves_SL = first_S[:, None] + _leaf_rows(trie, torch.device("cpu"))
    terms_SP = torch.empty(rows_SP.shape, dtype=torch.float64)
    ends_SL = torch.empty(leaves_SL.shape, dtype=torch.float64)
    needed = rows_SP if not trie.ends else torch.cat([rows_SP, leaves_SL], dim=1)
    for first, all_RV in logits.slices(needed.unique().tolist()):
        part_RV = all_RV[:, :num_tokens]
        is_here = (rows_SP >= first) & (rows_SP < first + len(part_RV))
        rows, tokens = (values[is_here].to(part_RV.device) for values in (rows_SP - first, tokens_SP))
        sums_R = logsumexp(part_RV).double()
        terms_SP[is_here] = (part_RV[rows, tokens].double() - sums_R[rows]).cpu()
        if trie.ends:
            ends_R = logsumexp(part_RV[:, _end_columns(trie, part_RV.device)]).double() - sums_R
            is_here = (leaves_SL >= first) & (leaves_SL < first + len(part_RV))
            ends_SL[is_here] = ends_R[(leaves_SL[is_here] - first).to(part_RV.device)].cpu()
    return torch.cat([terms_SP, ends_SL], dim=1)


@functools.lru_cache(maxsize=_MAX_KEPT)
def _token_indices(trie: LabelTrie, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the rows (within one prompt) and columns of the logits that predict the labels'
    tokens: int64 [label tokens] each."""
    row_of = {node: row for row, node in enumerate(trie.read_nodes)}
    nodes = torch.tensor([row_of[node] for path in trie.paths for node, _ in path], dtype=torch.int64)
    tokens = torch.tensor([token for path in trie.paths for _, token in path], dtype=torch.int64)
    return nodes.to(device), tokens.to(device)


@functools.lru_cache(maxsize=_MAX_KEPT)
def _leaf_rows(trie: LabelTrie, device: torch.device) -> Tensor:
    """Return the rows (within one prompt) of the logits behind the labels: int64 [labels or 0]."""
    row_of = {node: row for row, node in enumerate(trie.read_nodes)}
    return torch.tensor([row_of[leaf] for leaf in trie.leaves], dtype=torch.int64).to(device)


@functools.lru_cache(maxsize=_MAX_KEPT)
def _end_columns(trie: LabelTrie, device: torch.device) -> Tensor:
    """Return the columns of the tokens that end a label: int64 [ends]."""
    return torch.tensor(trie.ends, dtype=torch.int64).to(device)
