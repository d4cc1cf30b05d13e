"""CUDA graphs with tensor parallelism, as far as CPUs show it: two ranks with Triton's interpreter and stand-ins for
graphs that run the captured function again.

    pip install triton
    TRITON_INTERPRET=1 python -m pytest tests/actors/test_graphs_on_ranks.py
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed import RankPool, own_place, run_distributed
from tests.model import tiny
from tests.model.attention.test_gpu import EagerGraphs
from tests.model.test_tensor_parallel import RandomCheckpoint, build
from tirazh.actors.step_channel import StepChannel, on_all_ranks
from tirazh.model.engine import runner as runner_module
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.engine.step_graph import all_capture
from tirazh.model.requests import EngineJob, SamplingParams
from tirazh.model.tensor_parallel import agree_on_least, connect

CONFIG = tiny.tiny_config(num_layers=2, num_attention_heads=4, vocab_size=104, max_position_embeddings=96)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None
        or torch.cuda.is_available()
        or os.environ.get("TRITON_INTERPRET") != "1",
        reason="needs Triton and TRITON_INTERPRET=1, and no GPU",
    ),
]
_END = "end"


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[RankPool]:
    with run_distributed(2) as ranks:
        yield ranks


def _fail() -> None:
    raise RuntimeError("out of memory")


class GraphsOfRank(EagerGraphs):
    """All ranks agree about each capture, as real graphs do. On rank 1 the one after `most` fails."""

    most = 1000

    def __init__(self, agree: Callable[[bool], bool]) -> None:
        super().__init__(agree)
        self._agree = agree

    def run(  # type: ignore[override]
        self, phase: str, forward: Callable[..., Tensor], values: Sequence[Tensor], idle: Sequence[Tensor]
    ) -> Tensor | None:
        is_new = (phase, *(value.shape for value in values)) not in self._captured
        fails = own_place().rank == 1 and len(self._captured) == self.most
        if is_new and not all_capture(_fail if fails else dict, self._agree):
            return None
        return super().run(phase, forward, values, idle)


def answers(most_graphs: int | None) -> tuple[list[Any], bool] | None:
    """On rank 0: completions, with at most so many graphs (None: eagerly), and whether graphs run at the end."""
    connect(may_share_memory=False)  # sums over shared memory spin, which takes long where two ranks share a core
    model = build(CONFIG, RandomCheckpoint(CONFIG), "float32", 2)
    channel = StepChannel[Any](timeout_s=200)
    runner_module.StepGraphs = GraphsOfRank  # type: ignore[misc, assignment]
    GraphsOfRank.most = most_graphs or 0
    uses_graphs = most_graphs is not None
    runner = ModelRunner(
        model, num_slots=2, max_length=64, logit_rows=4, uses_cuda_graphs=uses_graphs, overlaps_steps=uses_graphs
    )
    runner.agree = lambda value: bool(agree_on_least(int(value)))
    runner.share_tokens = functools.partial(torch.distributed.broadcast, src=0)
    if own_place().rank > 0:
        while (step := channel.receive()) != _END:
            runner.execute(step)
        return None
    config = EngineConfig(num_slots=2, max_length=64, num_tokens=100, end_token_ids=(), prefill_rows=32, decode_rows=4)
    scheduler = Scheduler(config, EngineJob(), window_size=runner.window_size)
    engine = BatchEngine(runner, scheduler, execute=on_all_ranks(runner.execute, channel))
    sampling = SamplingParams(max_new_tokens=4, temperature=1.0)
    results = tiny.run(engine, tiny.greedy_requests([(1, 2, 3), tuple(range(20))], sampling))
    channel.send(_END)
    return results, runner._uses_cuda_graphs


def test_two_ranks_answer_the_same_with_graphs_and_after_one_of_them_could_not_capture(two_ranks: RankPool) -> None:
    eager, captured, broken = (two_ranks.run(answers, most)[0] for most in (None, 1000, 1))
    assert captured == (eager[0], True)
    assert broken == (eager[0], False)
