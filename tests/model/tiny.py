"""Tiny random models of every mode and pattern, engines over them, and slow, obvious reference
implementations.

The weights are larger than after initialisation, so that the keys to which a head attends change
the logits visibly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tirazh.model.config import ModelConfig, SparsePattern
from tirazh.model.engine.admission import Admission
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.engine.sliced_logits import SlicedLogits
from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM
from tirazh.model.requests import Completion, EngineJob, GenerateRequest, Request, Result, SamplingParams
from tirazh.model.step import Step

# Blocks of 4, windows of 16 tokens, and four different heads in each of two layout groups.
SMALL_PATTERN = SparsePattern(block_size=4, num_local_blocks=4, num_different_global_patterns=4)
PREFILL_ROWS, DECODE_ROWS = 64, 8
NUM_TOKENS = 310  # ids above are padding of the vocabulary
GREEDY = SamplingParams(max_new_tokens=12, temperature=0)
NO_JOB = EngineJob()


def tiny_config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "num_layers": 4,
        "hidden_size": 64,
        "num_attention_heads": 8,
        "vocab_size": 320,
        "max_position_embeddings": 512,
        "sparse_mode": "alternating",
        "sparse_pattern": SMALL_PATTERN,
        "layout_groups": 2,
    }
    return ModelConfig(**values | changes)


def tiny_model(*, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> RuGPT3ForCausalLM:
    """Return a random model for inference; `changes` are fields of ModelConfig."""
    generator = torch.Generator().manual_seed(seed)
    model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(tiny_config(**changes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 if "bias" in name else 0.15))
    return model.to(dtype).eval()


@st.composite
def sparse_configs(draw: st.DrawFn) -> ModelConfig:
    """Generate any pattern, heads, layout groups and longest sequence that a sparse model may have."""
    num_global = draw(st.integers(1, 3))
    num_local = num_global * draw(st.integers(1, 4))
    num_patterns = draw(st.integers(1, num_local // num_global))
    pattern = SparsePattern(
        block_size=draw(st.integers(1, 5)),
        num_local_blocks=num_local,
        num_global_blocks=num_global,
        num_different_global_patterns=num_patterns,
        different_layout_per_head=num_patterns > 1 or draw(st.booleans()),
    )
    groups = draw(st.integers(1, 3))
    heads = groups * draw(st.integers(1, 3))
    rest = draw(st.sampled_from([0, *range(num_global, num_local)]))  # blocks of a short last window
    blocks = num_local * draw(st.integers(1, 4)) + rest
    return tiny_config(
        num_attention_heads=heads,
        hidden_size=4 * heads,
        layout_groups=groups,
        sparse_pattern=pattern,
        max_position_embeddings=blocks * pattern.block_size,
    )


@contextmanager
def use_threads(num_threads: int) -> Iterator[None]:
    """Let torch use this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_prompts(lengths: Sequence[int], *, seed: int = 0) -> list[tuple[int, ...]]:
    generator = np.random.default_rng(seed)
    return [tuple(generator.integers(0, NUM_TOKENS, length).tolist()) for length in lengths]


def greedy_requests(prompts: Sequence[Sequence[int]], sampling: SamplingParams = GREEDY) -> list[GenerateRequest]:
    return [GenerateRequest(prompt_token_ids=prompt, sampling=sampling, seed=0) for prompt in prompts]


def without_logprob(result: Result) -> Result:
    """The result without the log-probability of its completion, to compare its tokens."""
    return replace(result, logprob=None) if isinstance(result, Completion) else result


class RecordingRunner:
    """Executes steps, and records every step with its logits, unless they are computed in slices."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.window_size, self.overlaps_steps = runner.window_size, runner.overlaps_steps
        self.store_tokens = runner.store_tokens
        self.seen: list[tuple[Step, Tensor]] = []

    @property
    def hidden_states(self) -> Tensor:
        return self.runner.hidden_states

    def execute(self, step: Step) -> Tensor | SlicedLogits:
        logits_RV = self.runner.execute(step)
        self.seen.append((step, logits_RV.clone() if isinstance(logits_RV, Tensor) else torch.empty(0)))
        return logits_RV


def build_engine(
    model: nn.Module,
    *,
    num_slots: int = 3,
    job: EngineJob = NO_JOB,
    decode: Callable[[Sequence[int]], str] | None = None,
    admission: Admission | None = None,
    overlaps_steps: bool = False,
    uses_cuda_graphs: bool = False,
    **settings: Any,
) -> BatchEngine:
    """Build an engine; `settings` are fields of EngineConfig. `overlaps_steps` is meant for GPUs,
    but works anywhere."""
    config = EngineConfig(
        **{
            "num_slots": num_slots,
            "max_length": 200,
            "num_tokens": NUM_TOKENS,
            "end_token_ids": (),
            "prefill_rows": PREFILL_ROWS,
            "decode_rows": DECODE_ROWS,
            **settings,
        }
    )
    runner = ModelRunner(
        model,
        num_slots=config.num_slots + config.num_prefix_slots,
        max_length=config.max_length,
        logit_rows=config.decode_rows,
        prefill_logit_rows=max(1, config.decode_rows // 2),
        overlaps_steps=overlaps_steps,
        uses_cuda_graphs=uses_cuda_graphs,
    )
    runner.set_prefix(job.prefix_token_ids, config.prefill_rows)
    scheduler = Scheduler(config, job, window_size=runner.window_size, admission=admission)
    return BatchEngine(RecordingRunner(runner), scheduler, decode=decode)


def run(engine: BatchEngine, requests: Sequence[Request]) -> list[Result]:
    """Run all requests to their end; return results in the order of the requests."""
    ids = engine.add(requests)
    results = dict(drain(engine))
    return [results[id] for id in ids]


def drain(engine: BatchEngine) -> Iterator[tuple[int, Result]]:
    for _ in range(10_000):
        if not engine.has_work:
            return
        yield from engine.step()
    raise AssertionError("the engine still has work after 10,000 steps")


def full_logits(model: nn.Module, tokens: Sequence[int]) -> Tensor:
    """Return the logits [length, vocab] of one whole sequence, by a forward without cache and
    engine."""
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([list(tokens)])).logits[0].float()
    return logits


def naive_greedy(
    model: nn.Module, prompt: Sequence[int], num_new: int, *, num_tokens: int = NUM_TOKENS
) -> tuple[int, ...]:
    """Generate greedily by recomputing the whole sequence for every token, as the original code
    did."""
    tokens = list(prompt)
    for _ in range(num_new):
        tokens.append(int(full_logits(model, tokens)[-1, :num_tokens].argmax()))
    return tuple(tokens[len(prompt) :])
