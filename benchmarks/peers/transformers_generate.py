"""transformers' `generate` in static batches of rows of similar length, the most common setup."""

from __future__ import annotations

import torch

from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.peer import Outcome, Peer, Setting, padded, sample_batches, static_batches, timed
from benchmarks.workloads import Tokens, Workload

# Most tokens in a batch on a CPU: one batch of 16 rows of 1,756 tokens took 1.5 times as long as two batches of 8.
_MOST_TOKENS = 16_384


class TransformersGenerate(Peer):
    family = "transformers.generate"
    library = "transformers"
    kinds = frozenset({"generate"})

    def settings(self, workload: Workload) -> list[Setting]:
        on_cpu = [size for size in (16, 8) if size * workload.max_length <= _MOST_TOKENS]
        sizes = [64, 128, 32] if self.device == "cuda" else on_cpu
        has_lengths = len({row.num_new for row in workload.rows}) > 1
        # Sorting by completion length favours this peer: users do not know these lengths in advance.
        orders = ("new", "prompt") if has_lengths else ("prompt",)
        return [{"batch": size, "order": order} for order in orders for size in sizes]

    def sample(self, workload: Workload, num_rows: int, setting: Setting) -> Workload:
        return sample_batches(workload, num_rows, setting["batch"], order=setting["order"])

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        self.model = under_test.gpt2(self.dtype)

    @torch.inference_mode()
    def run(self, workload: Workload, setting: Setting) -> Outcome:
        tokens: dict[int, Tokens] = {}
        with timed() as watch:
            for batch in static_batches(workload.rows, setting["batch"], order=setting["order"]):
                rows = [workload.rows[index] for index in batch]
                ids, mask = padded([row.prompt for row in rows], side="left", device=self.model.device)
                longest = max(row.num_new for row in rows)
                out = self.model.generate(ids, attention_mask=mask, max_new_tokens=longest, do_sample=False)
                new = out[:, ids.shape[1] :].tolist()
                # A static batch runs until its longest row is done; surplus tokens of the others are cut off.
                tokens |= {i: tuple(made[: row.num_new]) for i, made, row in zip(batch, new, rows, strict=True)}
        return Outcome(seconds=watch.seconds, tokens=[tokens[index] for index in range(len(workload.rows))])
