"""transformers' continuous batching: a paged cache, and requests that each end at their own length."""

from __future__ import annotations

from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.peer import Outcome, Peer, Setting, timed
from benchmarks.workloads import Workload

_PAGE = 32  # tokens; the default of 256 would leave most of a page of a short row empty


class TransformersContinuous(Peer):
    family = "transformers continuous batching"
    library = "transformers"
    kinds = frozenset({"generate"})

    def settings(self, workload: Workload) -> list[Setting]:
        if self.device == "cuda":
            return [{}]  # it derives its sizes from the GPU's memory
        return [{"requests": 16, "step_tokens": 256}, {"requests": 8, "step_tokens": 256}]

    def sample(self, workload: Workload, num_rows: int, setting: Setting) -> Workload:
        """Take enough rows that few steps at the end are half empty."""
        return workload.sample(max(num_rows, 2 * setting.get("requests", 0)))

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        self.model = under_test.gpt2(self.dtype)

    @torch.no_grad()  # its own thread could not write tensors that were made in inference mode
    def run(self, workload: Workload, setting: Setting) -> Outcome:
        greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1)
        on_gpu = self.device == "cuda"
        batching = ContinuousBatchingConfig() if on_gpu else _cpu_config(workload, setting)
        session = self.model.continuous_batching_context_manager(
            generation_config=greedy, continuous_batching_config=batching, warmup=on_gpu
        )
        with session as manager, timed() as watch:
            ids = [
                manager.add_request(list(row.prompt), max_new_tokens=row.num_new, eos_token_id=-1)
                for row in workload.rows
            ]
            results = _collect(manager, len(ids))
        return Outcome(seconds=watch.seconds, tokens=[tuple(results[id].generated_tokens) for id in ids])


def _cpu_config(workload: Workload, setting: Setting) -> ContinuousBatchingConfig:
    """Size the cache for the requests that run at once; by default it would take most of the machine's memory."""
    pages = -(-workload.max_length // _PAGE) + 1
    return ContinuousBatchingConfig(
        num_blocks=pages * (setting["requests"] + 1),
        page_size=_PAGE,
        max_batch_tokens=setting["step_tokens"],
        max_requests_per_batch=setting["requests"],
    )


def _collect(manager: Any, num_requests: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    while len(results) < num_requests:
        result = manager.get_result(timeout=600)
        if result is None or result.error:
            raise RuntimeError(f"continuous batching stopped: {result.error if result else 'no answer in 600 s'}")
        if result.is_finished():
            results[result.request_id] = result
    return results
