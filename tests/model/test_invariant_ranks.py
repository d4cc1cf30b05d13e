"""With `--invariant tensor-parallel` one, two and four ranks give the same bits: of logits, tokens, label scores and
embeddings, with sparse layers, a shared prefix and any dtype; without it they do not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.distributed import RankPool, own_place, run_distributed
from tests.model import tiny
from tests.system.tiny_model import TINY, write_tiny_model
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.model_engine import build_engine, build_runner
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.actors.step_channel import StepChannel, on_all_ranks
from tirazh.errors import RequestError
from tirazh.model.config import ModelConfig, check_invariant
from tirazh.model.cpu_features import may_multiply_bfloat16
from tirazh.model.kernels import build
from tirazh.model.kernels.build import load_kernel
from tirazh.model.layers.packed_linear import own_kernel
from tirazh.model.requests import (
    EmbedRequest,
    EngineJob,
    GenerateRequest,
    Request,
    SamplingParams,
    ScoreRequest,
    TextScoreRequest,
)

# 192 of the 768 inputs of a second MLP layer are a chunk: in 8 bits a whole group of 128, and a part of one.
CONFIG = replace(TINY, hidden_size=192, num_attention_heads=12)
PREFIX = tuple(range(40, 100))
JOB = EngineJob(prefix_token_ids=PREFIX, labels=((5, 6), (5, 7), (8,)))
DTYPES = ("float32", "bfloat16", "int8")
_END = "end"

pytestmark = pytest.mark.skipif(
    load_kernel("linear_int8") is None or own_kernel(torch.empty(16, 16)) is None, reason="no kernels of ours here"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("invariant"), config=CONFIG)


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[RankPool]:
    with run_distributed(4) as ranks:
        yield ranks


def requests() -> list[Request]:
    prompts = [(PREFIX if row % 3 else ()) + tuple((7 * row + i) % 250 for i in range(5 + 6 * row)) for row in range(9)]
    sampling = SamplingParams(max_new_tokens=24, temperature=0.9)
    return [
        *(GenerateRequest(prompt_token_ids=prompt, sampling=sampling, seed=3) for prompt in prompts),
        *(ScoreRequest(prompt_token_ids=prompt) for prompt in prompts),
        *(TextScoreRequest(token_ids=prompt, num_context=2) for prompt in prompts),
        *(EmbedRequest(prompt_token_ids=prompt, pooling="mean") for prompt in prompts),
    ]


def answers(config: ReplicaConfig, place: RankPlace | None = None) -> tuple[list[Any], str] | None:
    """On rank 0: the results of all requests, and a digest of the logits of all steps. On other ranks None."""
    place = place or own_place()
    runner = build_runner(config, place, ProgressCounter())
    execute: Any = runner.execute
    channel = StepChannel[Any](timeout_s=60) if place.world_size > 1 else None
    if channel is not None and place.rank > 0:
        while (step := channel.receive()) != _END:
            execute(step)
        return None
    if channel is not None:
        execute = on_all_ranks(execute, channel)
    digest = hashlib.sha256()

    def recorded(step: Any) -> Any:
        logits = execute(step)
        digest.update(logits.numpy().tobytes())
        return logits

    results = tiny.run(build_engine(config, runner, recorded), requests())
    if channel is not None:
        channel.send(_END)
    return results, digest.hexdigest()


def config_of(model: str, ranks: int, **settings: Any) -> ReplicaConfig:
    values: dict[str, Any] = {"jobs": (JOB,), "slots": 4, "seq_length": 256, "invariant": "tensor-parallel"}
    return ReplicaConfig(model=model, tensor_parallel=ranks, **values | settings)


def alone(config: ReplicaConfig, *, threads: int = 2) -> tuple[list[Any], str]:
    place = RankPlace(rank=0, world_size=1, local_rank=0, local_size=1, threads=threads)
    with tiny.use_threads(threads):
        found = answers(config, place)
    assert found is not None
    return found


def check(ranks: RankPool, model: str, size: int, dtype: str) -> None:
    if dtype == "bfloat16" and not may_multiply_bfloat16():
        pytest.skip("this CPU does not multiply bfloat16")
    expected = alone(config_of(model, 1, dtype=dtype))
    assert all(result.error is None for result in expected[0])
    assert ranks.run(answers, config_of(model, size, dtype=dtype)) == [expected] + [None] * (size - 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_ranks_answer_with_the_bits_of_one(model: str, two_ranks: RankPool, dtype: str) -> None:
    check(two_ranks, model, 2, dtype)


@pytest.mark.parametrize("dtype", [DTYPES[0], *(pytest.param(each, marks=pytest.mark.slow) for each in DTYPES[1:])])
def test_four_ranks_answer_with_the_bits_of_one(model: str, four_ranks: RankPool, dtype: str) -> None:
    check(four_ranks, model, 4, dtype)


def test_without_the_option_two_ranks_give_other_bits(model: str, two_ranks: RankPool) -> None:
    one, two = (config_of(model, size, invariant=None) for size in (1, 2))
    assert two_ranks.run(answers, two)[0][1] != alone(one)[1]


def test_a_model_or_a_machine_that_cannot_keep_the_promise_is_refused(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(hidden: int, heads: int) -> ModelConfig:
        return replace(CONFIG, hidden_size=hidden, num_attention_heads=heads, layout_groups=1)

    check_invariant(of(192, 12), 4)
    for config, ranks, words in (
        (None, 1, "is for ruGPT-3 models, and this one is of another family"),
        (of(96, 6), 2, "needs a multiple of 4 attention heads, but the model has 6"),
        (of(96, 4), 1, "needs attention heads of a multiple of 16 elements, but those of the model have 24"),
        (of(192, 12), 3, "needs --tensor-parallel 1, 2 or 4, not 3"),
    ):
        with pytest.raises(RequestError, match=words):
            check_invariant(config, ranks)
    for settings, words in (
        ({"tensor_parallel": 8}, "needs --tensor-parallel 1, 2 or 4, not 8"),
        ({"device": "cuda"}, "runs on CPUs only"),
        ({"dtype": "float16"}, "has no kernels for --dtype float16"),
    ):
        with pytest.raises(RequestError, match=words):
            ReplicaConfig(model="any", invariant="tensor-parallel", **settings)
    monkeypatch.setenv(build.OFF_SWITCH, "off")
    load_kernel.cache_clear()
    try:
        with pytest.raises(RequestError, match=r"on the machine .* tirazh has no kernels for --dtype float32"):
            alone(config_of(model, 1), threads=1)
    finally:
        monkeypatch.undo()
        load_kernel.cache_clear()
