"""Scores labelled rows with one prompt setting, by the steps of the job itself and on an engine that other settings
share. What the engine returns is kept, so that every scoring and calibration follows from it without another pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tirazh.errors import JobError
from tirazh.model.requests import EngineJob, LabelScores, Request, Result, ScoreRequest
from tirazh.pipeline import schema
from tirazh.pipeline.classification.calibration.load import FittedCalibration
from tirazh.pipeline.classification.label_requests import LabelRequests
from tirazh.pipeline.classification.scores import Corrections, LabelLayout, label_logprobs, label_priors
from tirazh.pipeline.column_values import values_of
from tirazh.pipeline.input.repetitions import content_of
from tirazh.pipeline.input.schemas.arrow_types import take
from tirazh.pipeline.prompts.choose_step import choose_prompt_step
from tirazh.pipeline.prompts.prepare import PreparedPrompts
from tirazh.pipeline.prompts.row_sample import MAX_SAMPLE_ROWS, choose_sample
from tirazh.pipeline.tuning.candidates import Ints
from tirazh.pipeline.tuning.fitted import calibrated
from tirazh.pipeline.tuning.metrics import Scores
from tirazh.pipeline.tuning.space import CALIBRATIONS, NO_CALIBRATION, ScoreChoice


class Engine(Protocol):
    """A replica that stays warm: `LocalReplica`."""

    def add_job(self, job: EngineJob) -> int: ...

    def run(self, requests: Sequence[Request]) -> list[Result]: ...


class EngineScorer:
    """The rows of `table` [N] with one prompt setting; a `PromptScorer`.

    `prepared` is that of a job with `scoring: pmi` and, if it can have it, `calibrate: contextual`, so that there are
    the premise and the content-free texts. `used` are the rows that may be run. `calibration` is that of the
    calibration file which the job names.
    """

    def __init__(
        self,
        prepared: PreparedPrompts,
        table: pa.Table,
        used: Ints,
        engine: Engine,
        *,
        calibration: FittedCalibration | None = None,
    ) -> None:
        assert prepared.labels is not None, "only classify is tuned"
        self._calibration = calibration
        self._labels: LabelRequests = prepared.labels
        self._engine = engine
        self._jobs = [engine.add_job(job) for job in prepared.engine_jobs]
        self._table = table.select(list(dict.fromkeys(prepared.config.columns.values())))
        self._prompts = _prompts(prepared, self._table, used)
        self._prefixes = [len(job.prefix_token_ids) for job in prepared.engine_jobs]
        self.row_tokens = self._row_tokens(prepared.engine_jobs, table.num_rows)
        self.prefix_tokens = sum(self._prefixes)
        self.has_content_free = bool(self._labels.prior_prompts)
        self.start_tokens = sum(len(request.prompt_token_ids) for request in self._labels.at_start())
        entries = len(prepared.engine_job.labels)
        self._raw = np.full((self._labels.layout.orders, table.num_rows, entries), np.nan)
        self._ran = np.zeros(table.num_rows, bool)
        self._start: tuple[NDArray[np.float64] | None, NDArray[np.float64] | None] | None = None

    def run(self, rows: Ints) -> None:
        """Let the engine score the rows that it has not scored yet."""
        if self._start is None:
            self._start = self._run_start()
        wanted = [int(row) for row in rows if not self._ran[row]]
        self._ran[wanted] = True
        good = [row for row in wanted if self._prompts[row] is not None]
        orders = self._labels.layout.orders
        results = self._run(self._labels.of_prompts([self._prompts[row] or [] for row in good]))
        for index, row in enumerate(good):
            own = results[index * orders : (index + 1) * orders]
            if all(result.error is None for result in own):
                self._raw[:, row] = [result.logprobs for result in own]

    def scores(self, choice: ScoreChoice, rows: Ints) -> Scores:
        """The scores of all labels for rows that were run, natural logarithms, float64 [n, L]; NaN for a row with an
        error. A batch calibration is that of `rows`."""
        assert self._ran[rows].all(), "rows that were not run have no scores"
        if choice.calibrate not in CALIBRATIONS:
            return self._with_file(choice, rows)
        layout = replace(self._labels.layout, scoring=choice.scoring)
        found = np.full((len(rows), sum(layout.sizes)), np.nan)
        is_run = ~np.isnan(self._raw[:, rows]).any(axis=(0, 2))
        if is_run.any():
            corrections = self._corrections(choice, layout, rows)
            found[is_run] = label_logprobs(self._raw[:, rows[is_run]], layout, corrections)
        return found

    def _with_file(self, choice: ScoreChoice, rows: Ints) -> Scores:
        """The scores with the calibration file that the job names."""
        assert self._calibration is not None, "a calibration file is read with the job"
        base = self.scores(ScoreChoice(choice.scoring, self._calibration.base or NO_CALIBRATION), rows)
        return calibrated(self._calibration.calibration, base)

    def _corrections(self, choice: ScoreChoice, layout: LabelLayout, rows: Ints) -> Corrections:
        assert self._start is not None, "rows were run"
        premise, content_free = self._start
        premise = premise if choice.scoring == "pmi" else None
        texts = None
        if choice.calibrate == "contextual":
            texts = content_free
        if choice.calibrate == "batch":
            texts = self._raw[:, self._batch(rows)]
        return Corrections(premise, None if texts is None else label_priors(texts, layout, premise))

    def _batch(self, rows: Ints) -> list[int]:
        """The rows that a job with `calibrate: batch` would choose if its input were `rows`."""
        table = take(self._table, rows)
        sample: Any = choose_sample([None], table.column_names, lambda part: table)  # type: ignore[list-item]
        row_of = dict(zip(_contents(table), rows.tolist(), strict=True))
        chosen = [row_of[content] for content in _contents(sample)]
        good = [row for row in chosen if not np.isnan(self._raw[:, row]).any()]
        return good[:MAX_SAMPLE_ROWS]

    def _run_start(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """The scores after the premise [E], and those after the content-free texts [O, M, E]."""
        results = self._run(self._labels.at_start())
        self._labels.corrections(results)  # raises for a prompt that could not be scored
        scores = np.array([result.logprobs for result in results], np.float64)
        premise = scores[0] if self._labels.premise else None
        texts = scores[1 if self._labels.premise else 0 :]
        if not len(texts):
            return premise, None
        by_text = texts.reshape(-1, self._labels.layout.orders, texts.shape[1])
        return premise, by_text.transpose(1, 0, 2)

    def _run(self, requests: Sequence[ScoreRequest]) -> list[LabelScores]:
        if not requests:
            return []
        sent = [replace(request, job=self._jobs[request.job]) for request in requests]
        results = self._engine.run(sent)
        if not all(isinstance(result, LabelScores) for result in results):
            raise JobError("the engine returned something else than label scores")
        return [result for result in results if isinstance(result, LabelScores)]

    def _row_tokens(self, jobs: Sequence[EngineJob], count: int) -> Ints:
        """The tokens of each row in all orders, without the shared prefixes."""
        tokens = np.zeros(count, np.int64)
        heads = [len(head) for head in self._labels.heads]
        prefix = list(jobs[0].prefix_token_ids)
        for row, ids in enumerate(self._prompts):
            if ids is not None:
                shared = self._prefixes if ids[: len(prefix)] == prefix else [0] * len(heads)
                tokens[row] = sum(len(ids) - heads[0] + head - known for head, known in zip(heads, shared, strict=True))
        return tokens


def _prompts(prepared: PreparedPrompts, table: pa.Table, used: Ints) -> list[list[int] | None]:
    """The tokens of the prompt of every used row; None for others and for a row with an error."""
    rows = take(table, used)
    for name in (schema.PART, schema.REPETITION):
        rows = rows.append_column(name, pa.array([0] * rows.num_rows, pa.int32()))
    made: list[Any] = choose_prompt_step(prepared.config)(rows).column(schema.PROMPT_IDS).to_pylist()
    prompts: list[list[int] | None] = [None] * table.num_rows
    for row, ids in zip(used.tolist(), made, strict=True):
        prompts[row] = ids
    return prompts


def _contents(table: pa.Table) -> list[str]:
    columns = [values_of(column) for column in table.columns]
    return [content_of(values) for values in zip(*columns, strict=True)]
