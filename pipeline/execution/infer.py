"""The inference step: it owns a replica and turns the prompts of a part into token ids or label
log-likelihoods.

It is an async class in Ray Data's actor pool. Each part is one call, and several calls are in
flight, so that the end of one part and the start of the next share engine steps. If the replica
fails, this process ends with it; Ray then restarts the actor and repeats its parts.

Importing this module loads no Ray: `make_requests` and `append_results` also serve `tirazh preview`.
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
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa

from tirazh.actors.garbage import collect_rarely
from tirazh.actors.messages import ReplicaConfig
from tirazh.errors import ReplicaError, RequestError
from tirazh.model.requests import (
    Completion,
    Constraint,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    LabelScores,
    Pooling,
    Request,
    Result,
    SamplingParams,
    TextScore,
    TextScoreRequest,
)
from tirazh.pipeline import schema
from tirazh.pipeline.classification.head.linear import LinearHead
from tirazh.pipeline.classification.label_requests import LabelRequests
from tirazh.pipeline.classification.scores import NO_CORRECTIONS, Corrections
from tirazh.pipeline.constraints.rows import row_constraints
from tirazh.pipeline.input.overrides import override_rows, row_sampling, sample_seed

if TYPE_CHECKING:
    from tirazh.actors.replica import Replica
    from tirazh.pipeline.execution.metrics_client import MetricsClient

logger = logging.getLogger(__name__)

# A part that was in flight when this many replicas died is skipped: it would kill the others too.
MAX_DEATHS_OF_A_PART = 3
_HEARTBEAT_INTERVAL_S = 1.0
_START_RETRY_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class InferConfig:
    """What the step needs besides the rows. `sampling` is None for classify, score and embed, `metrics` without Ray (a
    preview). `labels` are the requests of classify; `samples` is then the number of requests of a row. `pooling` is
    that of embed, and of classify with a `head`.

    With `samples_as_rows` a sample that fails takes only its own row out, not the other samples of the input row.
    `constraint` is what all completions follow; with `schema_column` each row's own schema instead.
    """

    replica: ReplicaConfig
    sampling: SamplingParams | None
    samples: int
    overrides: tuple[str, ...]
    metrics: MetricsClient | None
    samples_as_rows: bool = False
    constraint: Constraint | None = None
    schema_column: str | None = None
    labels: LabelRequests | None = None
    pooling: Pooling | None = None
    head: LinearHead | None = None


class InferStep:
    """One replica, and the parts in flight on it."""

    def __init__(self, config: InferConfig) -> None:
        import ray

        assert config.metrics is not None, "only a preview has no metrics actor"
        collect_rarely()
        self._config = config
        self._metrics = config.metrics
        self._name = uuid4().hex
        self._owner = ray.get_runtime_context().get_actor_id() or self._name
        self._corrections: asyncio.Future[Corrections] | None = None
        self._next_push = 0.0
        self._replica: Replica | None = None
        self._waiting_for = ""
        self._refusal: RequestError | None = None
        self._is_ending = threading.Event()
        self._register()
        try:
            self._replica = self._start()
        except RequestError as error:
            # The first call raises it instead: Ray would restart an actor whose constructor fails
            # again and again.
            self._refusal = error
        # Made on first use, inside the event loop in which Ray runs the calls.
        self._suspects: asyncio.Lock | None = None

    def _register(self) -> None:
        """Register with the metrics actor, then send heartbeats; the driver kills owners that stop
        sending them.
        """
        import ray

        self._metrics.register(self._owner)
        actor = ray.get_runtime_context().current_actor

        def send_heartbeats() -> None:
            while not self._is_ending.wait(_HEARTBEAT_INTERVAL_S):
                self._metrics.heartbeat(self._owner, actor, self._name if self._replica else None, self._waiting_for)

        threading.Thread(target=send_heartbeats, name="owner-heartbeat", daemon=True).start()

    def _start(self) -> Replica:
        """Start the replica.

        If that fails while other replicas serve, retry until resources become available.
        """
        from tirazh.actors.replica import Replica

        while True:
            try:
                replica = Replica(self._config.replica, on_phase=self._report_phase)
            except ReplicaError as error:
                self._waiting_for = ""
                if not self._metrics.start_failed(error):
                    raise
                logger.warning("an additional replica could not be started yet: %s", error)
                time.sleep(_START_RETRY_S)
                continue
            versions = {name: text for ready in replica.ready for name, text in ready.versions.items()}
            self._metrics.replica_started(self._owner, self._name, versions)
            return replica

    def _report_phase(self, phase: str) -> None:
        """The next heartbeat reports it."""
        self._waiting_for = phase

    async def __call__(self, table: pa.Table) -> pa.Table:
        if self._refusal is not None:
            raise self._refusal
        part = table.column(schema.PART)[0].as_py()
        deaths = await self._metrics.deaths_of(part)
        if deaths >= MAX_DEATHS_OF_A_PART:
            return _skip(table)
        if not deaths:
            return await self._run(part, table)
        # One of the parts that were in flight when a replica died has killed it. They run one after
        # the other, so that only that one is in flight at the next death.
        self._suspects = self._suspects or asyncio.Lock()
        async with self._suspects:
            return await self._run(part, table)

    async def _run(self, part: int, table: pa.Table) -> pa.Table:
        while not await self._metrics.part_started(self._owner, part):
            await asyncio.sleep(_HEARTBEAT_INTERVAL_S)  # the run is stopping: no more parts start
        try:
            return await self._infer(table)
        except ReplicaError as error:
            self._end_process(error)
            raise
        finally:
            self._metrics.part_finished(self._owner, part)

    async def _infer(self, table: pa.Table) -> pa.Table:
        good = [row for row, error in enumerate(table.column(schema.ROW_ERROR).to_pylist()) if error is None]
        requests = make_requests(table.take(good), self._config) if good else []
        pushing = asyncio.ensure_future(self._push_counters())
        try:
            # Queued before the rows of the first part. A part that is given up must not end it for the others.
            self._corrections = self._corrections or asyncio.ensure_future(self._score_once())
            results = await self._serving.run(requests) if requests else []
            corrections = await asyncio.shield(self._corrections)
        finally:
            pushing.cancel()
        await self._push()
        return append_results(table, good, results, self._config, corrections)

    async def _score_once(self) -> Corrections:
        """Score what all rows are corrected by. Every replica computes the same bits."""
        labels = self._config.labels
        requests = labels.at_start() if labels is not None else []
        return labels.corrections(await self._serving.run(requests)) if labels and requests else NO_CORRECTIONS

    @property
    def _serving(self) -> Replica:
        assert self._replica is not None, "calls are refused unless the replica has started"
        return self._replica

    async def _push(self) -> None:
        self._metrics.set_counters(self._name, await self._serving.counters())

    async def _push_counters(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_INTERVAL_S)
            if time.monotonic() >= self._next_push:
                self._next_push = time.monotonic() + _HEARTBEAT_INTERVAL_S
                with suppress(ReplicaError):  # the call that waits for results raises it too
                    await self._push()

    def _end_process(self, error: ReplicaError) -> None:
        """Report the failure and exit; after an exception Ray would send the next part to this broken replica."""
        logger.error("the replica died: %s", error)
        self._is_ending.set()
        self._metrics.replica_died(self._owner, str(error))
        sys.stderr.flush()
        os._exit(1)


def _skip(table: pa.Table) -> pa.Table:
    """The table of a skipped part: no results, and the sink writes no file for it."""
    return table.slice(0, 1).select([schema.PART])


def make_requests(table: pa.Table, config: InferConfig) -> list[Request]:
    """One request per row, or `samples` per row for generate: rows in order, the samples of a row together."""
    prompts: list[Any] = table.column(schema.PROMPT_IDS).to_pylist()
    if config.pooling is not None:
        return [EmbedRequest(prompt_token_ids=prompt, pooling=config.pooling) for prompt in prompts]
    if config.sampling is None:
        if schema.NUM_CONTEXT_IDS not in table.column_names:
            assert config.labels is not None, "a job without sampling and contexts is one of classify"
            return list(config.labels.of_prompts(prompts))
        contexts: list[Any] = table.column(schema.NUM_CONTEXT_IDS).to_pylist()
        return [
            TextScoreRequest(token_ids=prompt, num_context=context)
            for prompt, context in zip(prompts, contexts, strict=True)
        ]
    seeds: list[Any] = table.column(schema.ROW_SEED).to_pylist()
    overrides = override_rows(table, config.overrides)
    constraints = row_constraints(table, config.constraint, config.schema_column)
    return [
        GenerateRequest(
            prompt_token_ids=prompt,
            sampling=row_sampling(values, config.sampling),
            seed=sample_seed(seed, sample),
            constraint=constraint,
        )
        for prompt, seed, values, constraint in zip(prompts, seeds, overrides, constraints, strict=True)
        for sample in range(config.samples)
    ]


def append_results(
    table: pa.Table,
    good: Sequence[int],
    results: Sequence[Result],
    config: InferConfig,
    corrections: Corrections = NO_CORRECTIONS,
) -> pa.Table:
    """Replace the prompts in the part's table by the results.

    `good` are the rows that were sent. `corrections` are those of the labels of classify.
    """
    errors: list[str | None] = table.column(schema.ROW_ERROR).to_pylist()
    answers: list[list[Any] | None] = [None] * table.num_rows
    for index, row in enumerate(good):
        samples = results[index * config.samples : (index + 1) * config.samples]
        if not config.samples_as_rows:
            errors[row] = next((result.error for result in samples if result.error is not None), None)
        # A completion with something wrong is kept beside its error; a row that could not be run has none.
        has_failed = any(result.error is not None and _is_missing(result) for result in samples)
        answers[row] = None if has_failed and not config.samples_as_rows else list(samples)
    counts = pa.array([None if ids is None else len(ids) for ids in table.column(schema.PROMPT_IDS).to_pylist()])
    table = table.drop_columns([schema.PROMPT_IDS, schema.REPETITION, schema.ROW_ERROR])
    table = table.append_column(schema.ROW_ERROR, pa.array(errors, pa.string()))
    table = table.append_column(schema.NUM_PROMPT_IDS, counts.cast(pa.int32()))
    if schema.NUM_CONTEXT_IDS in table.column_names:
        columns = _text_columns(answers)
    elif config.pooling is not None:
        columns = _state_columns(answers, config.head)
    else:
        labels = config.labels
        columns = _completion_columns(answers) if labels is None else _label_columns(answers, labels, corrections)
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _is_missing(result: Result) -> bool:
    return not isinstance(result, Completion) or result.finish_reason == "error"


def _label_columns(
    answers: Sequence[list[LabelScores] | None], labels: LabelRequests, corrections: Corrections
) -> dict[str, pa.Array[Any]]:
    scored = [row for row, answer in enumerate(answers) if answer is not None]
    logprobs: list[list[float] | None] = [None] * len(answers)
    if scored:
        values = labels.logprobs([answers[row] or [] for row in scored], corrections)
        for row, own in zip(scored, values.tolist(), strict=True):
            logprobs[row] = own
    return {schema.LABEL_LOGPROBS: pa.array(logprobs, pa.list_(pa.float64()))}


def _completion_columns(answers: Sequence[list[Completion] | None]) -> dict[str, pa.Array[Any]]:
    """The columns `schema.PER_SAMPLE`; the values of a sample that could not be run are null but for its error."""

    def collect(arrow_type: pa.DataType, value: Callable[[Completion], Any]) -> pa.Array[Any]:
        rows = [
            None if answer is None else [None if _is_missing(each) else value(each) for each in answer]
            for answer in answers
        ]
        return pa.array(rows, pa.list_(arrow_type))

    errors = [None if answer is None else [completion.error for completion in answer] for answer in answers]
    return {
        schema.COMPLETION_IDS: collect(pa.list_(pa.int32()), lambda completion: list(completion.token_ids)),
        schema.TEXT_ENDS: collect(pa.int32(), lambda completion: completion.text_end),
        schema.REASONS: collect(pa.string(), lambda completion: completion.finish_reason),
        schema.COMPLETION_LOGPROBS: collect(pa.float64(), lambda completion: completion.logprob),
        schema.SAMPLE_ERRORS: pa.array(errors, pa.list_(pa.string())),
    }


def _state_columns(answers: Sequence[list[Embedding] | None], head: LinearHead | None) -> dict[str, pa.Array[Any]]:
    """The hidden states of the rows, or with a head the log-probabilities of its labels."""
    states = [None if answer is None else np.asarray(answer[0].values, np.float32) for answer in answers]
    if head is None:
        return {schema.HIDDEN_STATE: pa.array(states, pa.list_(pa.float32()))}
    good = [state for state in states if state is not None]
    found = iter(head.log_probabilities(np.stack(good)) if good else ())
    scores = [None if state is None else next(found) for state in states]
    return {schema.LABEL_LOGPROBS: pa.array(scores, pa.list_(pa.float64()))}


def _text_columns(answers: Sequence[list[TextScore] | None]) -> dict[str, pa.Array[Any]]:
    scores = [None if answer is None else answer[0] for answer in answers]
    return {
        schema.TEXT_LOGPROB: pa.array([score and score.logprob for score in scores], pa.float64()),
        schema.NUM_TEXT_IDS: pa.array([score and score.num_tokens for score in scores], pa.int32()),
    }
