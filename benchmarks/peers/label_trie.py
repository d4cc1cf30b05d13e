"""Score all labels of a row at once as a trie behind its prompt: tree attention by hand on transformers.

The prompt's forward fills a cache, and a second forward runs the labels' tokens under a mask that separates them. There
are two peers: one recomputes the shared prefix for every row, the other reuses transformers' cache of it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.peer import Outcome, Peer, Setting, timed
from benchmarks.workloads import Row, Tokens, Workload


class LabelTrieRecomputed(Peer):
    family = "labels as a trie, prefix recomputed"
    library = "transformers"
    kinds = frozenset({"labels"})
    probe_rows = 2
    keeps_prefix = False

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        self.model = under_test.gpt2(self.dtype)

    @torch.inference_mode()
    def run(self, workload: Workload, setting: Setting) -> Outcome:
        with timed() as watch:
            trie, prefix_cache = _Trie(workload.labels), None
            if self.keeps_prefix:
                prefix = torch.tensor([workload.prefix], device=self.model.device)
                prefix_cache = self.model(prefix, use_cache=True, logits_to_keep=1).past_key_values
            scores = [self._score(row, trie, prefix_cache) for row in workload.rows]
        return Outcome(seconds=watch.seconds, scores=scores)

    def _score(self, row: Row, trie: _Trie, prefix_cache: Any) -> tuple[float, ...]:
        device, length = self.model.device, len(row.prompt)
        cache = None if prefix_cache is None else another(prefix_cache)
        own = row.prompt if cache is None else row.prompt[cache.get_seq_length() :]
        ids = torch.tensor([own], device=device)
        prompt = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits_TV = prompt.logits[0]
        if trie.tokens:
            sees_prompt = torch.ones(len(trie.tokens), length, dtype=torch.bool)
            labels = self.model(
                torch.tensor([trie.tokens], device=device),
                past_key_values=prompt.past_key_values,
                position_ids=torch.tensor([trie.depths], device=device) + length,
                attention_mask=torch.cat([sees_prompt, trie.sees], dim=1)[None, None].to(device),
                use_cache=True,
            )
            logits_TV = torch.cat([logits_TV, labels.logits[0]])
        logprobs_TV = logits_TV.double().log_softmax(-1)
        return tuple(float(logprobs_TV[nodes, label].sum()) for nodes, label in zip(*trie.paths, strict=True))


class LabelTriePrefixCache(LabelTrieRecomputed):
    family = "labels as a trie, transformers' cache for the prefix"
    probe_rows = 8
    keeps_prefix = True


def another(cache: Any) -> Any:
    """Return a cache that starts with the same keys and values, uncopied: appending makes new tensors."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


class _Trie:
    """The labels' tokens without the last ones. Row 0 of the logits is the prompt's; `paths` = (logit rows, labels)."""

    def __init__(self, labels: tuple[Tokens, ...]) -> None:
        beginnings = sorted({label[:end] for label in labels for end in range(1, len(label))})
        row_of = {(): 0} | {beginning: row for row, beginning in enumerate(beginnings, start=1)}
        self.tokens = [beginning[-1] for beginning in beginnings]
        self.depths = [len(beginning) - 1 for beginning in beginnings]
        self.sees = torch.tensor([[b[: len(a)] == a for a in beginnings] for b in beginnings], dtype=torch.bool)
        rows = [[row_of[label[:end]] for end in range(len(label))] for label in labels]
        self.paths = rows, [list(label) for label in labels]
