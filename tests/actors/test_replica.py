"""A replica on a real Ray: it answers, ends as a whole when any rank dies, says why, and leaves
nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray

from tests.actors.fakes import DIE, FAIL, HANG, REFUSED_MODEL, WORK, prompt
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.placement import release_leftovers
from tirazh.actors.replica import Replica
from tirazh.errors import CheckpointError, ReplicaError
from tirazh.model.requests import Completion, EngineJob, ScoreRequest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]

SOON_S = 10.0


def make_config(**settings: Any) -> ReplicaConfig:
    return ReplicaConfig(**{"model": "none", "engine": "module:tests.actors.fakes"} | settings)


@contextmanager
def started_replica(**settings: Any) -> Iterator[Replica]:
    replica = Replica(make_config(**settings))
    try:
        yield replica
    finally:
        replica.close()


def pids_of(replica: Replica) -> list[int]:
    return [location.pid for location in replica.locations]


def assert_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + SOON_S
    while alive := [pid for pid in pids if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < deadline, f"processes {alive} are still alive"
        time.sleep(0.05)


def assert_resources_are_free() -> None:
    deadline = time.monotonic() + SOON_S
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, "the replica's CPUs were not freed"
        time.sleep(0.05)


@pytest.mark.parametrize("ranks", [1, 2])
def test_calls_run_at_once_and_each_gets_its_own_results(ranks: int) -> None:
    async def run() -> list[list[Any]]:
        calls = [[prompt(call, 77, row) for row in range(50)] for call in range(4)]
        return await asyncio.gather(*(replica.run(call) for call in calls))

    with started_replica(tensor_parallel=ranks) as replica:
        assert [ready.rank for ready in replica.ready] == list(range(ranks))
        for call, results in enumerate(asyncio.run(run())):
            assert [result.token_ids for result in results] == [(call, 77, row) for row in range(50)]


def test_the_echo_engine_answers_both_kinds_of_request_of_every_job() -> None:
    async def run() -> list[Any]:
        job = await replica.add_job(EngineJob(labels=((1,), (2,), (3,), (4,))))
        requests = [prompt(1, 2), ScoreRequest(prompt_token_ids=(3,)), ScoreRequest(prompt_token_ids=(3,), job=job)]
        return [*await replica.run(requests), await replica.counters()]

    with started_replica(engine="echo", jobs=(EngineJob(labels=((1,), (2,))),)) as replica:
        completion, scores, of_other_job, counters = asyncio.run(run())
    assert completion == Completion(token_ids=(1, 2), finish_reason="length", logprob=-2.0)
    assert scores.logprobs == pytest.approx([-0.6931, -0.6931], abs=1e-4)
    assert of_other_job.logprobs == pytest.approx([-1.3863] * 4, abs=1e-4)
    assert counters.finished == 3


@pytest.mark.parametrize(("ranks", "victim"), [(1, 0), pytest.param(2, 0, marks=pytest.mark.slow), (2, 1)])
def test_a_killed_rank_ends_the_replica_at_once(ranks: int, victim: int) -> None:
    with started_replica(tensor_parallel=ranks) as replica:
        pids = pids_of(replica)
        begin = time.monotonic()
        with pytest.raises(ReplicaError, match=rf"rank {victim} \(process {pids[victim]} on .*\) died"):
            asyncio.run(replica.run([prompt(1), prompt(DIE, victim), prompt(2)]))
        assert time.monotonic() - begin < SOON_S
        assert_ended(pids)
        with pytest.raises(ReplicaError, match=f"rank {victim} .* died"):
            asyncio.run(replica.run([prompt(1)]))


@pytest.mark.slow
def test_a_killed_rank_ends_an_idle_replica() -> None:
    with started_replica(tensor_parallel=2) as replica:
        os.kill(pids_of(replica)[1], signal.SIGKILL)
        assert_ended(pids_of(replica))
        assert_resources_are_free()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_on_any_rank_ends_the_replica_and_is_quoted(rank: int) -> None:
    with started_replica(tensor_parallel=2) as replica:
        with pytest.raises(ReplicaError, match=f"rank {rank} .* stopped: ZeroDivisionError: as requested"):
            asyncio.run(replica.run([prompt(FAIL, rank)]))
        assert_ended(pids_of(replica))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_ends_the_replica_after_its_timeout(rank: int) -> None:
    with started_replica(tensor_parallel=2, rank_timeout_s=2.0) as replica:
        with pytest.raises(ReplicaError, match=r"rank 0 .* made no progress for 2 s \(--rank-timeout-s is 2\)$"):
            asyncio.run(replica.run([prompt(HANG, rank)]))
        assert_ended(pids_of(replica))


def test_a_step_longer_than_the_timeout_ends_no_replica_while_layers_are_finished() -> None:
    with started_replica(rank_timeout_s=1.5) as replica:
        begin = time.monotonic()
        asyncio.run(replica.run([prompt(WORK, 0, 12, 4)]))
        assert time.monotonic() - begin > 3 * 1.5


@pytest.mark.slow
@pytest.mark.parametrize("slow", [0, 1])
def test_the_timeout_grows_with_the_slowest_layer_also_where_another_rank_is_the_slow_one(slow: int) -> None:
    with started_replica(tensor_parallel=2, rank_timeout_s=2.0) as replica:
        asyncio.run(replica.run([prompt(WORK, slow, 1, 10)]))  # one second, so the limit is ten
        begin = time.monotonic()
        asyncio.run(replica.run([prompt(WORK, slow, 1, 50)]))
        assert time.monotonic() - begin > 2 * 2.0


def test_a_cancelled_call_ends_neither_the_replica_nor_other_calls() -> None:
    async def run() -> list[Any]:
        long = asyncio.ensure_future(replica.run([prompt(WORK, 0, 4, 5)]))
        await asyncio.sleep(0.5)
        cancelled, other = (asyncio.ensure_future(replica.run([prompt(number)])) for number in (1, 2))
        await asyncio.sleep(0.5)
        long.cancel()
        cancelled.cancel()
        results = await asyncio.gather(long, cancelled, other, return_exceptions=True)
        return [*results, await replica.run([prompt(3)])]

    with started_replica() as replica:
        long, cancelled, other, later = asyncio.run(run())
    assert [result.token_ids for (result,) in (other, later)] == [(2,), (3,)]
    assert isinstance(long, asyncio.CancelledError)
    assert isinstance(cancelled, asyncio.CancelledError)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "victim"), [(1, 0), (2, 0), (2, 1)])
def test_a_rank_stopped_in_the_middle_of_a_step_ends_the_replica_after_its_timeout(ranks: int, victim: int) -> None:
    """After SIGSTOP a process keeps its memory and connections but does nothing. The other rank
    waits for it in an all-reduce."""
    with started_replica(tensor_parallel=ranks, rank_timeout_s=2.0) as replica:
        pids = pids_of(replica)

        async def run() -> None:
            calls = [asyncio.ensure_future(replica.run([prompt(row)] * 50)) for row in range(400)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            os.kill(pids[victim], signal.SIGSTOP)
            await asyncio.gather(*calls)

        begin = time.monotonic()
        stopped = rf"no answer comes from rank {victim} \(process {pids[victim]} "
        with pytest.raises(ReplicaError, match=rf"made no progress for .* s \(--rank-timeout-s is 2.*; {stopped}"):
            asyncio.run(run())
        assert time.monotonic() - begin < 2.0 + SOON_S
        assert_ended(pids)
        assert_resources_are_free()


@pytest.mark.slow
def test_idle_ranks_stay_alive_longer_than_their_timeout() -> None:
    with started_replica(tensor_parallel=2, rank_timeout_s=0.8) as replica:
        time.sleep(2.5)
        assert len(asyncio.run(replica.run([prompt(1)]))) == 1


def test_closing_a_replica_ends_its_processes_and_frees_its_resources() -> None:
    replica = Replica(make_config())
    begin = time.monotonic()
    replica.close()
    replica.close()
    assert time.monotonic() - begin < SOON_S
    assert_ended(pids_of(replica))
    assert_resources_are_free()
    with pytest.raises(ReplicaError, match="the replica was closed"):
        asyncio.run(replica.run([prompt(1)]))


class Owner:
    """Owns a replica in an actor of its own, as the pipeline's step does."""

    def __init__(self, config: ReplicaConfig) -> None:
        self.replica: Replica | None = Replica(config)

    def pids(self) -> list[int]:
        assert self.replica is not None
        return [os.getpid(), *pids_of(self.replica)]

    def drop(self) -> None:
        self.replica = None


@pytest.mark.slow
def test_when_the_owner_is_killed_its_ranks_end_and_its_restart_makes_new_ones() -> None:
    owner = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Owner).remote(
        make_config(tensor_parallel=2, cpus_per_rank=2)
    )
    pids = ray.get(owner.pids.remote())
    os.kill(pids[0], signal.SIGKILL)
    assert_ended(pids)
    assert not set(ray.get(owner.pids.remote())) & set(pids)
    ray.kill(owner)
    release_leftovers()
    assert_resources_are_free()


def test_a_garbage_collected_replica_frees_its_ranks() -> None:
    owner = ray.remote(num_cpus=0)(Owner).remote(make_config())
    pids = ray.get(owner.pids.remote())
    ray.get(owner.drop.remote())
    assert_ended(pids[1:])
    assert_resources_are_free()


def test_the_end_of_a_run_frees_the_resources_of_its_replicas() -> None:
    owner = ray.remote(num_cpus=0)(Owner).remote(make_config())
    pids = ray.get(owner.pids.remote())
    ray.kill(owner)
    release_leftovers()
    assert_ended(pids)
    assert_resources_are_free()


def test_a_cluster_that_is_too_small_is_reported_in_one_sentence() -> None:
    with pytest.raises(ReplicaError, match="a replica of 99 ranks needs 99 CPU, but the cluster has 6 CPU"):
        Replica(make_config(tensor_parallel=99, start_timeout_s=1))
    with pytest.raises(
        ReplicaError, match="a replica of 1 rank needs 1 CPU and 1 GPU, but the cluster has 6 CPU and 0 GPU"
    ):
        Replica(make_config(device="cuda", start_timeout_s=1))
    assert_resources_are_free()


def test_a_busy_cluster_is_reported_in_one_sentence() -> None:
    with started_replica(cpus_per_rank=5), pytest.raises(ReplicaError, match="needs 4 CPU, but only 1 CPU were free"):
        Replica(make_config(cpus_per_rank=4, start_timeout_s=1))


def test_a_wrong_request_keeps_its_error_type_and_message() -> None:
    with pytest.raises(CheckpointError, match=r"^no model directory refused$"):
        Replica(make_config(model=REFUSED_MODEL))
    assert_resources_are_free()
