"""Models whose layers run by prepared calls, in whole or as a rank's shard, and steps of every kind for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from unittest.mock import patch

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.model.test_tensor_parallel import RandomCheckpoint
from tests.model.tiny import build_engine, greedy_requests, random_prompts, run, tiny_config, use_threads
from tirazh.model.engine import runner as runner_module
from tirazh.model.engine.layer_calls import can_prepare
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.requests import EngineJob, Request, ScoreRequest
from tirazh.model.tensor_parallel import shard_model
from tirazh.model.transformer import LanguageModel

LABELS = ((1, 2, 3), (1, 5), (6,))


@dataclass(frozen=True)
class Kind:
    """A dtype, and whether the sums of its model are those of any number of ranks."""

    dtype: str
    is_invariant: bool

    def __str__(self) -> str:
        return f"{self.dtype}-invariant" if self.is_invariant else self.dtype


KINDS = [Kind(dtype, is_invariant) for is_invariant in (False, True) for dtype in ("float32", "bfloat16", "int8")]


@cache
def packed_model(kind: Kind, tp_rank: int = 0, tp_size: int = 1) -> LanguageModel:
    """Two layers, one of them sparse, with heads that the kernels take."""
    config = tiny_config(num_layers=2, hidden_size=128)
    shard = {"device": "cpu", "tp_rank": tp_rank, "tp_size": tp_size, "is_invariant": kind.is_invariant}
    model = shard_model(config, RandomCheckpoint(config), dtype=kind.dtype, **shard)  # type: ignore[arg-type]
    pack_linears(model, rows=8, to_int8=kind.dtype == "int8")
    assert isinstance(model, LanguageModel)
    return model


def skip_without_kernels(kind: Kind) -> None:
    if not can_prepare(packed_model(kind).model):
        pytest.skip(f"no kernel of ours for {kind.dtype} on this machine")


@dataclass(frozen=True)
class Steps:
    """What decides the steps of a run: rows behind a shared prefix, and one without it."""

    lengths: tuple[int, ...]
    num_prefix: int
    num_threads: int
    seed: int

    def logits(self, model: LanguageModel) -> list[Tensor]:
        """Of every step."""
        prefix = random_prompts([self.num_prefix], seed=self.seed + 1)[0]
        prompts = random_prompts(self.lengths, seed=self.seed)
        behind = [prefix + prompt for prompt in prompts]
        requests: list[Request] = [*greedy_requests([*behind, prompts[0]])]
        requests += [ScoreRequest(prompt_token_ids=prompt) for prompt in behind]
        with use_threads(self.num_threads):
            engine = build_engine(model, job=EngineJob(prefix_token_ids=prefix, labels=LABELS))
            run(engine, requests)
        return [logits for _, logits in engine.runner.seen]  # type: ignore[attr-defined]


def any_steps() -> st.SearchStrategy[Steps]:
    return st.builds(
        Steps,
        lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6).map(tuple),
        num_prefix=st.sampled_from([0, 5, 16, 37]),
        num_threads=st.integers(1, 3),
        seed=st.integers(0, 99),
    )


@contextmanager
def modules() -> Iterator[None]:
    """Runners that are built here run torch's modules."""
    with patch.object(runner_module, "can_prepare", lambda _: False):
        yield


def are_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))
