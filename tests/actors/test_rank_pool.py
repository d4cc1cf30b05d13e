"""Ranks that outlive the process which uses them: who gets them, and when they end. On a real Ray."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import ray

from tests.actors.fakes import HANG, prompt
from tests.actors.test_replica import assert_ended, assert_resources_are_free, make_config, pids_of
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.rank_pool import RankPool, RankPoolClient
from tirazh.actors.replica import Replica
from tirazh.model.requests import EngineJob, ScoreRequest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]

TWO, FOUR = EngineJob(labels=((1,), (2,))), EngineJob(labels=((1,), (2,), (3,), (4,)))


@pytest.fixture
def pool() -> Iterator[RankPoolClient]:
    name = f"pool-{uuid4().hex}"
    actor = ray.remote(RankPool).options(name=name, num_cpus=0).remote()
    client = RankPoolClient.find(name)
    assert client is not None
    yield client
    client.end_step(keep=False)
    ray.kill(actor)


def config_of(pool: RankPoolClient, **settings: Any) -> ReplicaConfig:
    name = ray._private.state.actors(pool.actor._actor_id.hex())["Name"]
    return make_config(rank_pool=name, **settings)


def leave(replica: Replica) -> list[int]:
    """Drop a replica as Ray Data does, without closing it. Returns the processes of its ranks."""
    pids = pids_of(replica)
    replica.__del__()
    return pids


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_next_owner_gets_the_ranks_and_counts_from_zero(ranks: int, pool: RankPoolClient) -> None:
    async def answers(replica: Replica) -> tuple[list[Any], int]:
        results = await replica.run([prompt(1, 77), prompt(2, 78)])
        return [result.token_ids for result in results], (await replica.counters()).finished

    first = Replica(config_of(pool, tensor_parallel=ranks))
    expected = asyncio.run(answers(first))
    pids = leave(first)
    assert pool.end_step(keep=True)
    second = Replica(config_of(pool, tensor_parallel=ranks))
    assert pids_of(second) == pids
    assert asyncio.run(answers(second)) == expected
    leave(second)
    pool.end_step(keep=False)
    assert_ended(pids)
    assert_resources_are_free()


def test_requests_name_the_jobs_of_their_own_replica(pool: RankPoolClient) -> None:
    async def count_labels(replica: Replica, *jobs: int) -> list[int]:
        requests = [ScoreRequest(prompt_token_ids=(5,), job=job) for job in jobs]
        return [len(scores.logprobs) for scores in await replica.run(requests)]  # type: ignore[union-attr]

    async def add(replica: Replica) -> list[int]:
        added = await replica.add_job(EngineJob(labels=((7,), (8,), (9,))))
        return await count_labels(replica, 0, added)

    first = Replica(config_of(pool, engine="echo", jobs=(TWO,)))
    assert asyncio.run(count_labels(first, 0)) == [2]
    leave(first)
    pool.end_step(keep=True)
    second = Replica(config_of(pool, engine="echo", jobs=(FOUR, TWO)))
    assert asyncio.run(count_labels(second, 0, 1)) == [4, 2]
    assert asyncio.run(add(second)) == [4, 3]


def test_ranks_of_another_kind_are_not_given_and_are_freed(pool: RankPoolClient) -> None:
    pids = leave(Replica(config_of(pool)))
    pool.end_step(keep=True)
    other = Replica(config_of(pool, seq_length=64))
    assert pids_of(other) != pids
    assert_ended(pids)


def test_ranks_that_died_meanwhile_are_replaced(pool: RankPoolClient) -> None:
    pids = leave(Replica(config_of(pool)))
    pool.end_step(keep=True)
    os.kill(pids[0], signal.SIGKILL)
    other = Replica(config_of(pool))
    assert pids_of(other) != pids
    assert asyncio.run(other.run([prompt(3, 77)]))[0].token_ids == (3, 77)  # type: ignore[union-attr]


def test_ranks_that_still_work_are_killed_at_the_end_of_a_step(pool: RankPoolClient) -> None:
    replica = Replica(config_of(pool, rank_timeout_s=60))
    ray.get(replica._ranks[0].counters.remote())  # type: ignore[call-overload]
    replica._ranks[0].run.remote([prompt(HANG, 0)])
    deadline = time.monotonic() + 20
    while not ray.get(replica._ranks[0].heartbeat.remote()).is_busy:  # type: ignore[call-overload]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = leave(replica)
    pool.end_step(keep=True)
    assert_ended(pids)


def test_an_owner_that_was_restarted_does_not_get_its_former_ranks(pool: RankPoolClient) -> None:
    pids = leave(Replica(config_of(pool)))
    other = Replica(config_of(pool))  # the same process, that is the same owner, before the step has ended
    assert pids_of(other) != pids
    assert_ended(pids)


def test_a_replica_whose_rank_dies_ends_and_leaves_nothing_in_the_pool(pool: RankPoolClient) -> None:
    replica = Replica(config_of(pool, tensor_parallel=2))
    pids = pids_of(replica)
    os.kill(pids[1], signal.SIGKILL)
    assert_ended(pids)
    assert_resources_are_free()


def test_without_a_pool_that_answers_a_replica_has_ranks_of_its_own() -> None:
    replica = Replica(make_config(rank_pool="no such pool"))
    pids = pids_of(replica)
    replica.__del__()
    assert_ended(pids)
