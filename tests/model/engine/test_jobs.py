"""Several jobs in one engine: each request gets the bits that it gets in an engine with its job alone, and no
job waits for ever."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.model.tiny import build_engine, drain, random_prompts, run, tiny_model
from tirazh.errors import RequestError
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.requests import (
    EmbedRequest,
    EngineJob,
    GenerateRequest,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
    TextScoreRequest,
)

SHORT, LONG, LONGEST = random_prompts([5, 21, 40], seed=9)
JOBS = (
    EngineJob(prefix_token_ids=LONG, labels=((1, 2, 3), (1, 2, 4), (1, 5), (6,))),
    EngineJob(labels=((7, 8), (9,)), label_ends=(3, 4)),
    EngineJob(prefix_token_ids=LONGEST, labels=((30, 31, 1), (30, 31, 2, 5), (32, 1)), label_starts=(2, 2, 1)),
    EngineJob(prefix_token_ids=SHORT, labels=tuple((first, second, 7) for first in range(8) for second in range(9))),
)
SAMPLINGS = (
    SamplingParams(max_new_tokens=6, temperature=1.0),
    SamplingParams(max_new_tokens=9, temperature=0.8, top_k=20, repetition_penalty=1.2),
    SamplingParams(max_new_tokens=4, temperature=0),
)


@functools.cache
def model(mode: str) -> nn.Module:
    made = tiny_model(num_layers=2, sparse_mode=mode)
    pack_linears(made, rows=8)
    return made


def requests_of(job: int, index: int) -> list[Request]:
    """Requests of every kind, of a job of `JOBS` that has this index in an engine."""
    prefix, requests = JOBS[job].prefix_token_ids, list[Request]()
    for number, own in enumerate(random_prompts([1, 9, 16, 17, 50], seed=job)):
        prompt = own if number == 1 else prefix + own
        requests.append(ScoreRequest(prompt_token_ids=prompt, job=index))
        sampling = SAMPLINGS[number % 3]
        requests.append(GenerateRequest(prompt_token_ids=prompt, sampling=sampling, seed=number, job=index))
        requests.append(TextScoreRequest(token_ids=(*prompt, 5), num_context=max(1, len(prompt) // 2), job=index))
        requests.append(EmbedRequest(prompt_token_ids=prompt, pooling=("last", "mean")[number % 2], job=index))
    requests.append(ScoreRequest(prompt_token_ids=(), job=index))  # cannot be run
    return requests


@functools.cache
def alone(mode: str, job: int) -> list[Result]:
    """What the requests of a job get in an engine that has no other job."""
    return run(build_engine(model(mode), job=JOBS[job]), requests_of(job, 0))


def engine_of(mode: str, jobs: Sequence[int], slots: int) -> BatchEngine:
    engine = build_engine(model(mode), num_slots=slots, job=JOBS[jobs[0]])
    assert [engine.add_job(JOBS[job]) for job in jobs] == list(range(len(jobs)))
    return engine


@settings(max_examples=20, deadline=None)
@given(
    mode=st.sampled_from(["alternating", "none"]),
    jobs=st.permutations(range(len(JOBS))).flatmap(lambda order: st.integers(1, 3).map(lambda count: order[:count])),
    slots=st.sampled_from([1, 3, 8]),
    max_turn=st.sampled_from([1, 4, 1000]),
    data=st.data(),
)
def test_a_request_gets_the_bits_of_an_engine_that_has_only_its_job(
    mode: str, jobs: list[int], slots: int, max_turn: int, data: st.DataObject
) -> None:
    engine = engine_of(mode, jobs, slots)
    engine.scheduler._jobs.max_turn = max_turn
    chosen = st.tuples(st.integers(0, len(jobs) - 1), st.integers(0, len(requests_of(0, 0)) - 1))
    found: dict[int, Result] = {}
    expected: dict[int, Result] = {}
    for _ in range(data.draw(st.integers(1, 3))):  # later requests arrive while earlier ones run
        picked = data.draw(st.lists(chosen, min_size=1, max_size=10))
        ids = engine.add([requests_of(jobs[index], index)[number] for index, number in picked])
        expected |= {id: alone(mode, jobs[index])[number] for id, (index, number) in zip(ids, picked, strict=True)}
        for _ in range(data.draw(st.integers(0, 4))):
            found.update(engine.step())
    found.update(drain(engine))
    assert found == expected


def test_the_same_rows_as_requests_of_every_job_compute_each_prefix_once() -> None:
    """As when several orders of the few-shot examples are averaged."""
    engine = engine_of("alternating", [0, 2, 3], 3)
    rows = random_prompts([3, 20, 31, 8, 12], seed=5)
    requests = [
        ScoreRequest(prompt_token_ids=JOBS[job].prefix_token_ids + row, job=index)
        for row in rows
        for index, job in enumerate((0, 2, 3))
    ]
    results = run(engine, requests)
    for index, job in enumerate((0, 2, 3)):
        single = build_engine(model("alternating"), job=JOBS[job])
        prompts = [JOBS[job].prefix_token_ids + row for row in rows]
        assert results[index::3] == run(single, [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts])
    changes = [step.new_prefix.token_ids for step, _ in engine.runner.seen if step.new_prefix is not None]
    assert changes == [LONGEST, SHORT]


def test_a_job_added_while_others_run_is_known_from_then_on() -> None:
    engine = engine_of("alternating", [0], 2)
    first = engine.add(requests_of(0, 0))
    found = dict(engine.step())
    (unknown,) = engine.add([ScoreRequest(prompt_token_ids=(1,), job=1)])
    assert engine.add_job(JOBS[2]) == 1
    assert engine.add_job(JOBS[0]) == 0
    second = engine.add(requests_of(2, 1))
    found.update(drain(engine))
    assert found[unknown].error == "the request belongs to job 1, but the last job of the engine is 0"
    assert [found[id] for id in first] == alone("alternating", 0)
    assert [found[id] for id in second] == alone("alternating", 2)


def test_a_cancelled_job_leaves_the_engine_to_the_others() -> None:
    engine = engine_of("alternating", [0, 2], 2)
    cancelled, kept = engine.add(requests_of(0, 0)), engine.add(requests_of(2, 1))
    found = dict(engine.step())
    engine.cancel(cancelled)
    found.update(drain(engine))
    assert [found[id] for id in kept] == alone("alternating", 2)


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (EngineJob(labels=((1,), (1,))), "two labels have the same tokens"),
        (EngineJob(labels=((1, 310),)), "a label of the job holds a token id outside 0 to 309"),
        (EngineJob(prefix_token_ids=(-1,)), "a shared prefix of the job holds a token id outside 0 to 309"),
        (EngineJob(prefix_token_ids=(1,) * 201), "the job's shared prefix has 201 tokens; a sequence has at most 200"),
        (EngineJob(labels=((1, 2),), label_starts=(2,)), "a label has no tokens that are scored"),
        (EngineJob(labels=((1, 2),), label_starts=(0, 1)), "label_starts must hold a number of 0 or more for each"),
    ],
)
def test_a_job_that_cannot_be_run_is_refused_and_the_engine_goes_on(job: EngineJob, sentence: str) -> None:
    engine = engine_of("alternating", [0], 2)
    with pytest.raises(RequestError, match=sentence):
        engine.add_job(job)
    assert run(engine, requests_of(0, 0)) == alone("alternating", 0)


class Turns:
    """A scheduler without a model whose requests end in the step that takes them, and the jobs that it ran."""

    def __init__(self, num_jobs: int, max_turn: int) -> None:
        config = EngineConfig(
            num_slots=2, max_length=100, num_tokens=50, end_token_ids=(), prefill_rows=64, decode_rows=8
        )
        jobs = [EngineJob(prefix_token_ids=(index,), labels=((1,),)) for index in range(num_jobs)]
        self.scheduler = Scheduler(config, *jobs, window_size=16)
        self.scheduler._jobs.max_turn = max_turn
        self.ran: list[int] = []
        self._next_id = 0

    def add(self, job: int, count: int) -> None:
        ids = range(self._next_id, self._next_id + count)
        self.scheduler.add([(id, ScoreRequest(prompt_token_ids=(job, 9), job=job)) for id in ids])
        self._next_id += count

    def step(self) -> None:
        self.scheduler.admit()
        scheduled = self.scheduler.schedule()
        assert scheduled is not None
        for reader in scheduled.readers:
            self.ran.append(reader.request.job)
            self.scheduler.release(reader.slot, reader.sequence)

    def run(self) -> str:
        while self.scheduler.has_work:
            self.step()
        return "".join(map(str, self.ran))


def test_a_job_is_drained_before_the_next_one_runs() -> None:
    turns = Turns(3, max_turn=100)
    turns.add(1, 3)
    turns.add(0, 3)
    turns.step()
    turns.add(2, 2)
    turns.add(0, 2)
    assert turns.run() == "0000011122"


def test_the_job_that_has_waited_longest_is_next() -> None:
    turns = Turns(3, max_turn=100)
    turns.add(2, 1)
    turns.add(1, 1)
    turns.add(2, 1)
    assert turns.run() == "221"


def test_no_job_waits_for_ever_while_another_one_gets_more_and_more_requests() -> None:
    turns = Turns(3, max_turn=4)
    for job in (0, 1, 2):
        turns.add(job, 6)
    for _ in range(12):
        turns.step()
        turns.add(0, 2)
    assert turns.run().startswith("000011112222000011220000000")


def test_alone_a_job_runs_as_long_as_it_has_requests() -> None:
    turns = Turns(2, max_turn=2)
    turns.add(0, 9)
    assert turns.run() == "0" * 9
