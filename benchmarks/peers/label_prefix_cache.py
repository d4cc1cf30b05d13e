"""A peer with a prefix cache: transformers computes the prefix's keys and values once and copies them for every batch.

A row's text is computed once too. Each label then continues the batch's cache, which is cropped for the next label.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.label_trie import another
from benchmarks.peers.peer import Outcome, Peer, Setting, padded, sample_batches, static_batches, timed
from benchmarks.workloads import Tokens, Workload


class LabelPrefixCache(Peer):
    family = "transformers with its prefix cache"
    library = "transformers"
    kinds = frozenset({"labels"})
    probe_rows = 8

    def settings(self, workload: Workload) -> list[Setting]:
        return [{"batch": size} for size in ((32, 64) if self.device == "cuda" else (4, 8))]

    def sample(self, workload: Workload, num_rows: int, setting: Setting) -> Workload:
        return sample_batches(workload, num_rows, setting["batch"])

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        self.model = under_test.gpt2(self.dtype)

    @torch.inference_mode()
    def run(self, workload: Workload, setting: Setting) -> Outcome:
        scores: dict[int, tuple[float, ...]] = {}
        with timed() as watch:
            prefix = torch.tensor([workload.prefix], device=self.model.device)
            prefix_cache = self.model(prefix, use_cache=True, logits_to_keep=1).past_key_values
            for batch in static_batches(workload.rows, setting["batch"]):
                own = [workload.rows[index].prompt[len(workload.prefix) :] for index in batch]
                cache = another(prefix_cache)
                cache.batch_repeat_interleave(len(batch))
                columns = self._score_batch(own, workload.labels, cache).tolist()
                scores |= {index: tuple(row) for index, row in zip(batch, columns, strict=True)}
        return Outcome(seconds=watch.seconds, scores=[scores[index] for index in range(len(workload.rows))])

    def _score_batch(self, own: list[Tokens], labels: tuple[Tokens, ...], cache: Any) -> Tensor:
        """Return log-likelihoods, float64 [B, labels]. Rows are padded on the right, with explicit positions."""
        num_prefix, device = cache.get_seq_length(), self.model.device
        ids, own_mask_BT = padded(own, side="right", device=device)
        lengths_B = own_mask_BT.sum(1)
        mask_BS = torch.cat([own_mask_BT.new_ones(len(own), num_prefix), own_mask_BT], dim=1)
        positions_T = torch.arange(num_prefix, num_prefix + ids.shape[1], device=device)
        hidden_BTC = self._hidden(ids, mask_BS, positions_T.expand(len(own), -1), cache)
        last_BC = hidden_BTC[torch.arange(len(own), device=device), lengths_B - 1]
        first_BV = self.model.lm_head(last_BC).double().log_softmax(-1)
        end = cache.get_seq_length()
        columns = []
        for label in labels:
            score_B = first_BV[:, label[0]]
            if len(label) > 1:
                score_B = score_B + self._rest(label, mask_BS, num_prefix + lengths_B, cache)
                cache.crop(end - cache.get_seq_length())
            columns.append(score_B)
        return torch.stack(columns, dim=1)

    def _rest(self, label: Tokens, mask_BS: Tensor, starts_B: Tensor, cache: Any) -> Tensor:
        """Return the log-likelihood of a label's tokens after its first, float64 [B]."""
        ids = torch.tensor([label[:-1]], device=mask_BS.device).expand(len(mask_BS), -1)
        positions = starts_B[:, None] + torch.arange(ids.shape[1], device=ids.device)
        mask = torch.cat([mask_BS, torch.ones_like(ids)], dim=1)
        logits_BTV = self.model.lm_head(self._hidden(ids, mask, positions, cache))
        wanted = torch.tensor(label[1:], device=ids.device).expand(len(ids), -1)
        scores_B: Tensor = logits_BTV.double().log_softmax(-1).gather(2, wanted[:, :, None])[:, :, 0].sum(1)
        return scores_B

    def _hidden(self, ids: Tensor, mask_BS: Tensor, positions_BT: Tensor, cache: Any) -> Tensor:
        output = self.model.transformer(
            ids, attention_mask=mask_BS, position_ids=positions_BT, past_key_values=cache, use_cache=True
        )
        hidden_BTC: Tensor = output.last_hidden_state
        return hidden_BTC
