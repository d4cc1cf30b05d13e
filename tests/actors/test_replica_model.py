"""Replicas with a real model: ranks agree with one process, replicas share a host, and a kill
leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.tiny_model import TINY, write_tiny_model
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.replica import Replica
from tirazh.errors import ReplicaError, RequestError
from tirazh.model.requests import (
    Embedding,
    EmbedRequest,
    EngineJob,
    GenerateRequest,
    LabelScores,
    Request,
    SamplingParams,
    ScoreRequest,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_local")]

PREFIX = tuple(range(40, 100))
JOB = EngineJob(prefix_token_ids=PREFIX, labels=((5, 6), (5, 7), (8,)))


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@contextmanager
def replicas(model: str, *ranks: int, **settings: Any) -> Iterator[list[Replica]]:
    started: list[Replica] = []
    try:
        for tensor_parallel in ranks:
            config = ReplicaConfig(
                model=model, jobs=(JOB,), slots=8, seq_length=256, tensor_parallel=tensor_parallel, **settings
            )
            started.append(Replica(config))
        yield started
    finally:
        for replica in started:
            replica.close()


def requests(count: int, *, max_new_tokens: int = 12) -> list[Request]:
    sampling = SamplingParams(max_new_tokens=max_new_tokens, temperature=0)
    prompts = [PREFIX + tuple((7 * row + i) % 250 for i in range(5 + row)) for row in range(count)]
    generate = [GenerateRequest(prompt_token_ids=prompt, sampling=sampling, seed=0) for prompt in prompts]
    return [*generate, *(ScoreRequest(prompt_token_ids=prompt) for prompt in prompts)]


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("deepspeed_allreduce")}


def test_two_sharded_replicas_at_once_answer_like_one_rank(tiny_model: str) -> None:
    async def run_all() -> list[list[Any]]:
        return await asyncio.gather(*(replica.run(requests(12)) for replica in started))

    before = shared_memory()
    with replicas(tiny_model, 1, 2, 2) as started:
        whole, *sharded = asyncio.run(run_all())
        weights = [sum(ready.weight_bytes for ready in replica.ready) for replica in started]
        assert shared_memory() <= before
    for results in sharded:
        assert [r.token_ids for r in results[:12]] == [r.token_ids for r in whole[:12]]
        for score, expected in zip(results[12:], whole[12:], strict=True):
            assert score.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert all(result.error is None for result in whole)
    # Every rank holds both embeddings, and the output head, which is packed and so no longer tied.
    replicated = 4 * (2 * TINY.vocab_size + TINY.max_position_embeddings) * TINY.hidden_size
    assert weights[1] == weights[2] < weights[0] + 1.2 * replicated


def test_a_job_added_to_a_sharded_replica_runs_behind_its_own_prefix_on_every_rank(tiny_model: str) -> None:
    other = EngineJob(prefix_token_ids=tuple(range(150, 100, -1)), labels=((9,), (7, 8)))

    async def add_and_run(replica: Replica) -> list[Any]:
        index = await replica.add_job(other)
        assert (index, await replica.add_job(other), await replica.add_job(JOB)) == (1, 1, 0)
        with pytest.raises(RequestError, match="two labels have the same tokens"):
            await replica.add_job(EngineJob(labels=((1,), (1,))))
        own = [tuple(request.prompt_token_ids)[len(PREFIX) :] for request in requests(6)[6:]]
        of_other = [ScoreRequest(prompt_token_ids=other.prefix_token_ids + tail, job=index) for tail in own]
        return [
            *await replica.run([*requests(6), *of_other]),
            *await replica.run(of_other),
            *await replica.run(requests(6)),
            *await replica.run([EmbedRequest(prompt_token_ids=PREFIX + tail, pooling="mean") for tail in own]),
            *await replica.run([EmbedRequest(prompt_token_ids=tail, job=index) for tail in own]),
        ]

    with replicas(tiny_model, 1, 2) as started:
        whole, sharded = (asyncio.run(add_and_run(replica)) for replica in started)
    assert whole[12:18] == whole[18:24]
    assert whole[:12] == whole[24:36]
    assert all(result.error is None for result in whole)
    for one, two in zip(whole, sharded, strict=True):
        if isinstance(one, LabelScores):
            assert two.logprobs == pytest.approx(one.logprobs, abs=1e-4)
        elif isinstance(one, Embedding):
            assert list(two.values) == pytest.approx(list(one.values), abs=1e-4)
            assert len(one.values) == TINY.hidden_size
        else:
            assert two.token_ids == one.token_ids


def test_a_rank_killed_during_an_all_reduce_ends_the_replica(tiny_model: str) -> None:
    async def run_and_kill() -> None:
        running = asyncio.ensure_future(replica.run(requests(40, max_new_tokens=150)))
        while (await replica.counters()).steps < 5:
            await asyncio.sleep(0.02)
        os.kill(replica.locations[1].pid, signal.SIGKILL)
        await running

    with replicas(tiny_model, 2) as (replica,):
        begin = time.monotonic()
        with pytest.raises(ReplicaError, match=r"rank 1 .* died"):
            asyncio.run(run_and_kill())
        assert time.monotonic() - begin < 30
        while any(Path(f"/proc/{location.pid}").exists() for location in replica.locations):
            assert time.monotonic() - begin < 40
            time.sleep(0.05)


def test_a_model_that_cannot_be_split_is_refused(tiny_model: str) -> None:
    refusal = "--tensor-parallel 3 does not divide the model's 4 attention heads"
    with pytest.raises(RequestError, match=refusal), replicas(tiny_model, 3):
        pass
