"""Run one forward per row and label, as lm-evaluation-harness does, but compute logits of the labels' tokens only."""

from __future__ import annotations

import torch

from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.peer import Outcome, Peer, Setting, padded, timed
from benchmarks.workloads import Row, Workload


class LabelForwards(Peer):
    family = "a forward per label"
    library = "transformers"
    kinds = frozenset({"labels"})
    probe_rows = 1

    def settings(self, workload: Workload) -> list[Setting]:
        return [{"batch": size} for size in ((10, 5) if self.device == "cuda" else (1, 5))]

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        self.model = under_test.gpt2(self.dtype)

    @torch.inference_mode()
    def run(self, workload: Workload, setting: Setting) -> Outcome:
        with timed() as watch:
            scores = [self._score(row, workload, setting["batch"]) for row in workload.rows]
        return Outcome(seconds=watch.seconds, scores=scores)

    def _score(self, row: Row, workload: Workload, batch_size: int) -> tuple[float, ...]:
        scores: list[float] = []
        for first in range(0, len(workload.labels), batch_size):
            labels = workload.labels[first : first + batch_size]
            sequences = [(*row.prompt, *label[:-1]) for label in labels]
            ids, mask = padded(sequences, side="left", device=self.model.device)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            # Without padding no mask is needed, and attention uses its faster causal path.
            mask = None if bool(mask.all()) else mask
            logits_BTV = self.model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                logits_to_keep=max(map(len, labels)),
                use_cache=False,
            ).logits
            for label, logits_TV in zip(labels, logits_BTV, strict=True):
                logprobs_TV = logits_TV[-len(label) :].double().log_softmax(-1)
                scores.append(float(logprobs_TV[range(len(label)), label].sum()))
        return tuple(scores)
