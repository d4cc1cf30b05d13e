"""tirazh's own engine without Ray and DeepSpeed, as rank 0 of a replica runs it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from benchmarks.model_under_test import Mode, ModelUnderTest
from benchmarks.peers.peer import Outcome, Peer, Setting, timed
from benchmarks.workloads import Workload
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.prefix_caching.slots import MOST_PREFIX_SLOTS, divide_slots
from tirazh.model.engine.runner import ModelRunner, can_capture_graphs, hidden_size, slots_that_fit
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.layers.int8_linear import activation_dtype
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.requests import EngineJob, GenerateRequest, Request, SamplingParams, ScoreRequest
from tirazh.model.step import step_rows


class Ours(Peer):
    """The engine with a job's default slots, step sizes and sequence length."""

    family = "tirazh"
    kinds = frozenset({"generate", "labels"})
    runner: ClassVar[type[ModelRunner]] = ModelRunner
    caches_prefixes: ClassVar[bool] = True

    def __init__(self, dtype: str, mode: Mode, *, slots: int, device: str = "cpu", is_main: bool = True) -> None:
        """`is_main` marks the dtype that a job would choose; the goals are about it."""
        super().__init__(dtype, device=device)
        self.mode, self.slots, self.is_main = mode, slots, is_main

    @property
    def name(self) -> str:
        return f"{self.family} {self.mode}, {self.dtype}"

    @property
    def weights_dtype(self) -> str:
        """The dtype of everything but the linear layers in 8 bits."""
        return str(activation_dtype()).removeprefix("torch.") if self.dtype == "int8" else self.dtype

    def version(self) -> str:
        import tirazh

        return tirazh.__version__

    def runs_everything(self, workload: Workload) -> bool:
        return self.is_main

    def settings(self, workload: Workload) -> list[Setting]:
        return [{"slots": self.slots}]

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        network = under_test.ours(self.mode, self.weights_dtype)
        # On a GPU the whole cache is allocated at once, so it gets the workload's length; on a CPU it grows with rows.
        longest = -(-workload.max_length // 64) * 64 if self.device == "cuda" else under_test.shape.num_positions
        max_length = min(longest, under_test.shape.num_positions)
        wanted = setting["slots"] + (MOST_PREFIX_SLOTS if self.caches_prefixes else 0)
        slots = min(wanted, slots_that_fit(network, max_length))
        self.model = build_runner(
            network, num_slots=slots, max_length=max_length, kind=self.runner, to_int8=self.dtype == "int8"
        )

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        requests, config = _requests(workload), engine_config(self.model, device=self.device)
        if self.caches_prefixes:
            slots, prefix_slots = divide_slots(setting["slots"], config.num_slots)
            config = replace(config, num_slots=slots, num_prefix_slots=prefix_slots)
        with timed() as watch:
            # Computing the shared prefix is part of the job, so it is timed.
            job = EngineJob(prefix_token_ids=workload.prefix, labels=workload.labels)
            self.model.set_prefix(job.prefix_token_ids, config.prefill_rows)
            scheduler = Scheduler(config, job, window_size=self.model.window_size)
            results = _run_all(BatchEngine(self.model, scheduler), requests)
        assert not any(result.error for result in results)
        if workload.kind == "labels":
            return Outcome(seconds=watch.seconds, scores=[tuple(result.logprobs) for result in results])
        return Outcome(seconds=watch.seconds, tokens=[tuple(result.token_ids) for result in results])


def build_runner(
    network: nn.Module,
    *,
    num_slots: int,
    max_length: int,
    kind: type[ModelRunner] = ModelRunner,
    to_int8: bool = False,
) -> ModelRunner:
    """Build a runner as a rank of a job does."""
    rows = step_rows(next(network.parameters()).device.type, hidden_size(network))
    uses_graphs = can_capture_graphs(network)
    pack_linears(network, rows=rows.decode, to_int8=to_int8)
    return kind(
        network,
        num_slots=num_slots,
        max_length=max_length,
        logit_rows=rows.decode,
        prefill_logit_rows=rows.prefill_logits,
        uses_cuda_graphs=uses_graphs,
        overlaps_steps=uses_graphs,
    )


def engine_config(runner: ModelRunner, *, device: str) -> EngineConfig:
    """Return the configuration of a job without an end token, so that no sequence ends early."""
    rows = step_rows(device, hidden_size(runner.model))
    return EngineConfig(
        num_slots=runner.num_slots,
        max_length=runner.max_length,
        num_tokens=runner.model.config.vocab_size,  # type: ignore[union-attr, arg-type]
        end_token_ids=(),
        prefill_rows=rows.prefill,
        decode_rows=rows.decode,
    )


def _requests(workload: Workload) -> list[Request]:
    if workload.kind == "labels":
        return [ScoreRequest(prompt_token_ids=row.prompt) for row in workload.rows]
    greedy = {n: SamplingParams(max_new_tokens=n, temperature=0) for n in {row.num_new for row in workload.rows}}
    return [GenerateRequest(prompt_token_ids=row.prompt, sampling=greedy[row.num_new], seed=0) for row in workload.rows]


def _run_all(engine: BatchEngine, requests: list[Request]) -> list[Any]:
    ids = engine.add(requests)
    results: dict[int, Any] = {}
    while engine.has_work:
        results.update(engine.step())
    return [results[id] for id in ids]
