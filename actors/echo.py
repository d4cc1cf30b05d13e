"""An engine without a model: it answers at once, which shows what the pipeline around an engine
costs.

It is also the smallest example of an engine module (`engine_module.py`).
"""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.model.requests import (
    Completion,
    Embedding,
    EmbedRequest,
    EngineCounters,
    EngineJob,
    GenerateRequest,
    LabelScores,
    Request,
    Result,
    TextScore,
    TextScoreRequest,
)

EMBEDDING_CHANNELS = 8


@dataclass(kw_only=True, slots=True)
class EchoRunner:
    """Counts the steps that it executes. A step is a list of request ids."""

    steps: int = 0

    def execute(self, step: Sequence[int], /) -> None:
        self.steps += 1


class EchoEngine:
    """Answers every request within one step: a prompt with its own first tokens, labels with equal
    probabilities, every embedding with ones. Every token has the log-probability -1."""

    def __init__(self, config: ReplicaConfig, execute: Callable[[list[int]], object]) -> None:
        self.counters = EngineCounters()
        self._config = config
        self._jobs = list(config.jobs)
        self._execute = execute
        self._waiting: deque[tuple[int, Request]] = deque()
        self._added = 0

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def add_job(self, job: EngineJob) -> int:
        if job not in self._jobs:
            self._jobs.append(job)
        return self._jobs.index(job)

    def add(self, requests: Sequence[Request]) -> list[int]:
        ids = list(range(self._added, self._added + len(requests)))
        self._added += len(requests)
        self._waiting.extend(zip(ids, requests, strict=True))
        return ids

    def cancel(self, ids: Collection[int]) -> None:
        self._waiting = deque((request_id, request) for request_id, request in self._waiting if request_id not in ids)

    def step(self) -> list[tuple[int, Result]]:
        begin = time.perf_counter()
        taken = [self._waiting.popleft() for _ in range(min(self._config.slots, len(self._waiting)))]
        self._execute([request_id for request_id, _ in taken])
        answers = [(request_id, self._answer(request)) for request_id, request in taken]
        self._count(taken, answers, time.perf_counter() - begin)
        return answers

    def _answer(self, request: Request) -> Result:
        if isinstance(request, GenerateRequest):
            tokens = tuple(request.prompt_token_ids)[: request.sampling.max_new_tokens]
            return Completion(token_ids=tokens, finish_reason="length", logprob=-float(len(tokens)))
        if isinstance(request, TextScoreRequest):
            scored = max(0, len(request.token_ids) - request.num_context)
            return TextScore(logprob=-float(scored), num_tokens=scored)
        if isinstance(request, EmbedRequest):
            return Embedding(values=array("f", [1.0] * EMBEDDING_CHANNELS))
        labels = max(1, len(self._jobs[request.job].labels))
        return LabelScores(logprobs=(-math.log(labels),) * labels)

    def _count(self, taken: list[tuple[int, Request]], answers: list[tuple[int, Result]], seconds: float) -> None:
        completed = [answer for _, answer in answers if isinstance(answer, Completion)]
        self.counters = replace(
            self.counters,
            prompt_tokens=self.counters.prompt_tokens + sum(len(r.prompt_token_ids) for _, r in taken),
            completion_tokens=self.counters.completion_tokens + sum(len(c.token_ids) for c in completed),
            finished=self.counters.finished + len(taken),
            steps=self.counters.steps + 1,
            decode_s=self.counters.decode_s + seconds,
            slots=self._config.slots,
            busy_slots=min(self._config.slots, len(self._waiting)),
        )


def build_runner(config: ReplicaConfig, rank_place: RankPlace, progress: ProgressCounter) -> EchoRunner:
    return EchoRunner()


def count_weight_bytes(runner: EchoRunner) -> int:
    return 0


def build_engine(config: ReplicaConfig, runner: EchoRunner, execute: Callable[[list[int]], object]) -> EchoEngine:
    return EchoEngine(config, execute)
