"""The step that owns a replica: a part's prompts in, token ids or label log-likelihoods out.

An async class in Ray Data's actor pool. One part is one call, and several calls are in flight, so that the tail of one
part and the head of the next share steps. A replica that fails takes this process with it: Ray then starts the actor
again and runs its parts once more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray

from tirazh.actors.garbage import collect_rarely
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.replica import Replica
from tirazh.errors import ReplicaError, RequestError
from tirazh.model.requests import (
    Completion,
    GenerateRequest,
    LabelScores,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
)
from tirazh.pipeline import schema
from tirazh.pipeline.input.overrides import override_rows, row_sampling, sample_seed
from tirazh.pipeline.labels import calibrate

logger = logging.getLogger(__name__)

# A part that was there when this many replicas ended is left out: it would end the others too.
MAX_DEATHS_OF_A_PART = 3
_PUSH_EVERY_S = 1.0
_ASK_TIMEOUT_S = 10.0
_START_AGAIN_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class InferConfig:
    """What the step needs besides the rows. `sampling` is None for classify; `metrics` is the actor to report to."""

    replica: ReplicaConfig
    sampling: SamplingParams | None
    samples: int
    overrides: tuple[str, ...]
    calibration_ids: tuple[int, ...]
    metrics: Any


class InferStep:
    """One replica, and the parts that are in flight on it."""

    def __init__(self, plan: InferConfig) -> None:
        collect_rarely()
        self._plan = plan
        self._name = uuid4().hex
        self._owner = ray.get_runtime_context().get_actor_id() or self._name
        self._priors: list[float] | None = None
        self._next_push = 0.0
        self._replica: Replica | None = None
        self._refusal: RequestError | None = None
        self._is_ending = threading.Event()
        self._enter()
        try:
            self._replica = self._start()
        except RequestError as error:
            # Raised by the first call instead: Ray would try an actor that failed to start again, and again.
            self._refusal = error
        # Made on first use, inside the event loop that Ray runs the calls in.
        self._suspects: asyncio.Lock | None = None

    def _enter(self) -> None:
        """Say that we are here, and go on saying so: an owner that falls silent is ended by the driver."""
        self._ask_metrics(self._plan.metrics.enter, self._owner)
        actor = ray.get_runtime_context().current_actor

        def beat() -> None:
            while not self._is_ending.wait(_PUSH_EVERY_S):
                self._plan.metrics.beat.remote(self._owner, actor, self._name if self._replica else None)

        threading.Thread(target=beat, name="owner-beat", daemon=True).start()

    def _start(self) -> Replica:
        """A replica that serves. Where others do already, one that finds no room waits for it instead of failing."""
        while True:
            try:
                replica = Replica(self._plan.replica)
            except ReplicaError as error:
                if not self._ask_metrics(self._plan.metrics.fail, error):
                    raise
                logger.warning("a further replica could not start yet: %s", error)
                time.sleep(_START_AGAIN_S)
                continue
            versions = {name: text for ready in replica.ready for name, text in ready.versions.items()}
            self._plan.metrics.begin.remote(self._owner, self._name, versions)
            return replica

    def _ask_metrics(self, method: Any, *arguments: Any) -> Any:
        """What the metrics actor answers; None when it does not. Not to be called in the event loop."""
        try:
            return ray.get(method.remote(*arguments), timeout=_ASK_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError):
            logger.warning("the metrics actor does not answer")
            return None

    async def __call__(self, table: pa.Table) -> pa.Table:
        if self._refusal is not None:
            raise self._refusal
        part = table.column(schema.PART)[0].as_py()
        deaths = int(await self._tell(self._plan.metrics.deaths, part) or 0)
        if deaths >= MAX_DEATHS_OF_A_PART:
            return self._leave_out(table)
        if not deaths:
            return await self._run(part, table)
        # Of several parts that were there when a replica ended, one is to blame: run them one after the other, so that
        # only the guilty one is there each time.
        self._suspects = self._suspects or asyncio.Lock()
        async with self._suspects:
            return await self._run(part, table)

    async def _run(self, part: int, table: pa.Table) -> pa.Table:
        await self._tell(self._plan.metrics.take, self._owner, part)
        try:
            return await self._answer(table)
        except ReplicaError as error:
            self._end_process(error)
            raise
        finally:
            self._plan.metrics.give.remote(self._owner, part)

    async def _answer(self, table: pa.Table) -> pa.Table:
        good = [row for row, error in enumerate(table.column(schema.ROW_ERROR).to_pylist()) if error is None]
        requests = _requests(table.take(good), self._plan) if good else []
        pushing = asyncio.ensure_future(self._push_counters())
        try:
            results = await self._ask(requests) if requests else []
            if self._plan.calibration_ids and self._priors is None:
                self._priors = await self._score_without_text()
        finally:
            pushing.cancel()
        await self._count()
        return _append_results(table, good, results, self._plan, self._priors)

    async def _score_without_text(self) -> list[float]:
        """The labels' log-likelihoods after an empty text: the same bits on every replica."""
        (scores,) = await self._ask([ScoreRequest(prompt_token_ids=self._plan.calibration_ids)])
        if not isinstance(scores, LabelScores) or scores.error is not None:
            raise ReplicaError(f"the empty prompt of --calibrate could not be scored: {getattr(scores, 'error', '')}")
        return list(scores.logprobs)

    async def _ask(self, requests: Sequence[Request]) -> list[Result]:
        assert self._replica is not None
        return await self._replica.run(requests)

    async def _count(self) -> None:
        assert self._replica is not None
        self._plan.metrics.count.remote(self._name, await self._replica.counters())

    async def _push_counters(self) -> None:
        while True:
            await asyncio.sleep(_PUSH_EVERY_S)
            if time.monotonic() >= self._next_push:
                self._next_push = time.monotonic() + _PUSH_EVERY_S
                with suppress(ReplicaError):  # whoever waits for results will hear of it
                    await self._count()

    async def _tell(self, method: Any, *arguments: Any) -> Any:
        """What the metrics actor answers; None when it does not."""
        try:
            return await asyncio.wait_for(method.remote(*arguments), _ASK_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError):
            return None

    def _end_process(self, error: ReplicaError) -> None:
        """Tell why, and go: raising would let Ray send the next part to this same broken replica."""
        logger.error("the replica ended: %s", error)
        self._is_ending.set()
        self._ask_metrics(self._plan.metrics.died, self._owner, str(error))
        sys.stderr.flush()
        os._exit(1)

    def _leave_out(self, table: pa.Table) -> pa.Table:
        """A part without answers; the sink writes no file for it."""
        return table.slice(0, 1).select([schema.PART])


def _requests(table: pa.Table, plan: InferConfig) -> list[Request]:
    """One request a row, or `samples` a row for generate; rows in order, a row's samples together."""
    prompts: list[Any] = table.column(schema.PROMPT_IDS).to_pylist()
    if plan.sampling is None:
        return [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts]
    seeds: list[Any] = table.column(schema.ROW_SEED).to_pylist()
    own = override_rows(table, plan.overrides)
    return [
        GenerateRequest(
            prompt_token_ids=prompt, sampling=row_sampling(values, plan.sampling), seed=sample_seed(seed, sample)
        )
        for prompt, seed, values in zip(prompts, seeds, own, strict=True)
        for sample in range(plan.samples)
    ]


def _append_results(
    table: pa.Table, good: Sequence[int], results: Sequence[Result], plan: InferConfig, priors: Sequence[float] | None
) -> pa.Table:
    """The part's table with the answers of its good rows in place of prompts and seeds."""
    errors: list[str | None] = table.column(schema.ROW_ERROR).to_pylist()
    answers: list[list[Any] | None] = [None] * table.num_rows
    for place, row in enumerate(good):
        own = results[place * plan.samples : (place + 1) * plan.samples]
        errors[row] = next((result.error for result in own if result.error is not None), None)
        answers[row] = list(own) if errors[row] is None else None
    counts = pa.array([None if ids is None else len(ids) for ids in table.column(schema.PROMPT_IDS).to_pylist()])
    table = table.drop_columns([schema.PROMPT_IDS, schema.ROW_SEED, schema.ROW_KEY, schema.ROW_ERROR])
    table = table.append_column(schema.ROW_ERROR, pa.array(errors, pa.string()))
    table = table.append_column(schema.NUM_PROMPT_IDS, counts.cast(pa.int32()))
    columns = _label_columns(answers, priors) if plan.sampling is None else _completion_columns(answers)
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _label_columns(
    answers: Sequence[list[LabelScores] | None], priors: Sequence[float] | None
) -> dict[str, pa.Array[Any]]:
    scores = [None if answer is None else list(answer[0].logprobs) for answer in answers]
    if priors is not None:
        scores = [None if row is None else calibrate(row, priors) for row in scores]
    return {schema.LABEL_LOGPROBS: pa.array(scores, pa.list_(pa.float64()))}


def _completion_columns(answers: Sequence[list[Completion] | None]) -> dict[str, pa.Array[Any]]:
    def collect(kind: pa.DataType, value: Callable[[Completion], Any]) -> pa.Array[Any]:
        rows = [None if answer is None else [value(completion) for completion in answer] for answer in answers]
        return pa.array(rows, pa.list_(kind))

    return {
        schema.COMPLETION_IDS: collect(pa.list_(pa.int32()), lambda completion: list(completion.token_ids)),
        schema.TEXT_ENDS: collect(pa.int32(), lambda completion: completion.text_end),
        schema.REASONS: collect(pa.string(), lambda completion: completion.finish_reason),
    }
