"""The batch engine: requests in, results out.

It launches the steps that the scheduler plans, samples tokens or scores labels from their logits,
and collects the results. On a GPU it uses overlap scheduling: the tokens of a step are read while
the next step runs, so that the device does not wait for the CPU (`pending_step.py`). It runs on
rank 0 of a replica.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tirazh.model.engine.constrained import ConstrainedDecoding, StepMasks, completion_of, has_ended
from tirazh.model.engine.labels.scoring import prompt_terms
from tirazh.model.engine.logprobs import text_logprobs
from tirazh.model.engine.pending_step import Owners, PendingStep
from tirazh.model.engine.pooling import Pool
from tirazh.model.engine.prefix_caching.kept_logits import KeptLogits
from tirazh.model.engine.prefix_caching.tree import PrefixRequest
from tirazh.model.engine.results import completed, failed
from tirazh.model.engine.sampling import NO_TOKEN, RowState, sample
from tirazh.model.engine.scheduler import LogitsReader, ScheduledStep, Scheduler
from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.engine.sliced_logits import SlicedLogits, chosen_rows
from tirazh.model.engine.stop_strings import StopFinder
from tirazh.model.requests import (
    EngineCounters,
    EngineJob,
    FinishReason,
    GenerateRequest,
    LabelScores,
    Request,
    Result,
    ScoreRequest,
    TextScore,
    TextScoreRequest,
)
from tirazh.model.step import Step


class StepRunner(Protocol):
    """Executes steps: `tirazh.model.engine.runner.ModelRunner`.

    Where it `overlaps_steps`, rows of a decode step may hold `PLACEHOLDER`, which stands for the
    last token that `store_tokens` got for the slot. Its attention must then tolerate stale NaN in a
    reused slot. `hidden_states` are those of the last step's `hidden_rows`, float32 [rows, channels].
    """

    @property
    def overlaps_steps(self) -> bool: ...

    def execute(self, step: Step) -> Tensor | SlicedLogits: ...

    def store_tokens(self, slots: Sequence[int], tokens: Tensor) -> None: ...

    @property
    def hidden_states(self) -> Tensor: ...


@dataclass(slots=True)
class _Totals:
    """The fields of `EngineCounters`, counted in place."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    finished: int = 0
    steps: int = 0
    prefill_steps: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0


class BatchEngine:
    """Runs requests in a scheduler's slots. Not thread-safe: one thread calls `add` and `step`."""

    def __init__(
        self,
        runner: StepRunner,
        scheduler: Scheduler,
        *,
        execute: Callable[[Step], Tensor | SlicedLogits] | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
        splits_before: Callable[[int], bool] | None = None,
        constrained: ConstrainedDecoding | None = None,
        cache_bytes: Callable[[int], int] | None = None,
    ) -> None:
        """The runner must already hold the first job's shared prefix. `execute` runs a step on every rank
        of a replica and returns rank 0's logits (default: on `runner` alone). Only stop strings need `decode` and
        `splits_before` (`StopFinder`). Requests with a constraint need `constrained`. `cache_bytes` gives the
        memory of a sequence's keys and values by its length in tokens; only `counters` need it."""
        self.runner, self.scheduler = runner, scheduler
        self._execute = execute or runner.execute
        self._decode, self._splits_before = decode, splits_before
        self._constrained, self._cache_bytes = constrained, cache_bytes
        self._ids = itertools.count()
        self._pending: deque[PendingStep] = deque()  # launched, not collected yet; the oldest first
        self._results: list[tuple[int, Result]] = []
        self._kept_logits = KeptLogits()
        self._totals = _Totals()

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self.scheduler.has_work or self._results or self._pending)

    @property
    def counters(self) -> EngineCounters:
        """Totals since the engine was made, and what it holds now. May be called from any thread."""
        held = [sequence for sequence in tuple(self.scheduler.slots) if sequence is not None]
        stored = [*held, *self.scheduler.prefixes]
        size = self._cache_bytes
        return EngineCounters(
            **asdict(self._totals),
            slots=len(self.scheduler.slots),
            busy_slots=len(held),
            cache_bytes=0 if size is None else sum(size(each.num_cached + each.num_new) for each in stored),
        )

    def add_job(self, job: EngineJob) -> int:
        """Return the index by which requests name a job; an equal job keeps the index that it has.

        Raises RequestError for a job that cannot be run (`JobQueues.add_job`).
        """
        return self.scheduler.add_job(job)

    def add(self, requests: Iterable[Request]) -> list[int]:
        """Queue requests; return their ids in the order given. A request that cannot be run (an
        empty or too long prompt, token ids out of range) gets its error as its result."""
        ids, valid = [], []
        for request in requests:
            ids.append(next(self._ids))
            error = self.scheduler.find_problem(request)
            if error is None and self._constrained is not None:
                error = self._constrained.find_problem(request)
            if error is not None:
                self._finish(ids[-1], failed(request, error))
            elif isinstance(request, TextScoreRequest) and len(request.token_ids) <= request.num_context:
                self._finish(ids[-1], TextScore(logprob=0.0, num_tokens=0))  # an empty text is certain
            else:
                valid.append((ids[-1], request))
        self.scheduler.add(valid)
        return ids

    def cancel(self, ids: Collection[int]) -> None:
        """Give up unfinished requests: those that wait are dropped, those that run free their slots.
        No results are returned for them, and no other request's result changes."""
        self.scheduler.cancel(ids)
        for sequence in itertools.chain.from_iterable(pending.sequences() for pending in self._pending):
            if sequence.id in ids:
                sequence.is_finished = True
        self._results = [(id, result) for id, result in self._results if id not in ids]

    def step(self) -> list[tuple[int, Result]]:
        """Run one forward pass; return what has finished, as (id, result)."""
        begin = time.perf_counter()
        self._totals.prompt_tokens += self.scheduler.admit()
        if self._constrained is not None:
            self._start_grammars(self._constrained)
        self._start_completions()
        if self.scheduler.needs_all_tokens:
            self._collect(num_left=0)
        scheduled = self.scheduler.schedule()
        if scheduled is not None:
            self._launch(scheduled)
        # Overlap scheduling: the step just launched may still run while the caller prepares the next.
        self._collect(num_left=1 if scheduled is not None and self.runner.overlaps_steps else 0)
        finished, self._results = self._results, []
        if scheduled is not None:
            self._count_time(scheduled.step, time.perf_counter() - begin)
        return finished

    def _count_time(self, step: Step, seconds: float) -> None:
        if step.phase == "prefill":
            self._totals.prefill_steps += 1
            self._totals.prefill_s += seconds
        else:
            self._totals.decode_s += seconds

    # Launching

    def _start_grammars(self, constrained: ConstrainedDecoding) -> None:
        """Start the grammars of the sequences just admitted; end those that are complete without any step."""
        for slot, sequence in constrained.start(self.scheduler.slots):
            self._totals.completion_tokens += len(sequence.new_tokens)
            if has_ended(sequence):
                self._end(slot, sequence, completion_of(sequence))

    def _start_completions(self) -> None:
        """Sample the first tokens of the sequences just admitted whose prompts are cached as a whole."""
        if started := self.scheduler.started_completions():
            self._pending.append(PendingStep())
            self._sample_rows([(each.slot, each.sequence) for each in started], self._kept_logits.of(started), {})
            if not self.runner.overlaps_steps:
                self._collect(num_left=0)
        self._kept_logits.drop_all_but(self.scheduler.prefixes)

    def _launch(self, scheduled: ScheduledStep) -> None:
        readers = scheduled.readers
        to_sample = [reader for reader in readers if isinstance(reader.request, GenerateRequest)]
        masks = self._constrained.begin_masks([r.sequence for r in to_sample]) if self._constrained else None
        logits_RV = self._execute(scheduled.step)
        self._totals.steps += 1
        self._pending.append(PendingStep())
        if to_score := [reader for reader in readers if isinstance(reader.request, ScoreRequest)]:
            self._score(to_score, logits_RV)
        if texts := [reader for reader in readers if isinstance(reader.request, TextScoreRequest)]:
            self._score_texts(texts, logits_RV)
        if scheduled.hidden_readers:
            self._pool(scheduled.hidden_readers)
        self._kept_logits.keep([each for each in readers if isinstance(each.request, PrefixRequest)], logits_RV)
        if to_sample:
            self._sample(to_sample, logits_RV, masks)

    def _score(self, readers: list[LogitsReader], logits_RV: Tensor | SlicedLogits) -> None:
        """Score pieces of the labels of prompts that are computed, and free the slots of those without more pieces."""
        trie, num_tokens = readers[0].sequence.trie, self.scheduler.config.num_tokens
        assert trie is not None
        for piece in sorted({reader.piece for reader in readers}):
            some = [reader for reader in readers if reader.piece == piece]
            terms = prompt_terms(logits_RV, [each.rows for each in some], trie.pieces[piece].trie, num_tokens)
            self._pending[-1].expect_scores([each.owner for each in some], piece, terms)
        for reader in readers:
            if not reader.sequence.num_to_prefill:
                self.scheduler.release(reader.slot, reader.sequence)

    def _score_texts(self, readers: list[LogitsReader], logits_RV: Tensor | SlicedLogits) -> None:
        """Score the tokens of texts that this step has read, and free the slots of those that are read."""
        num_tokens = self.scheduler.config.num_tokens
        logprobs_R = text_logprobs(logits_RV, [(each.rows, each.targets) for each in readers], num_tokens)
        counts = [each.rows.stop - each.rows.start for each in readers]
        self._pending[-1].expect_texts([reader.owner for reader in readers], counts, logprobs_R)
        for reader in readers:
            if not reader.sequence.num_to_prefill:
                self.scheduler.release(reader.slot, reader.sequence)

    def _pool(self, readers: Sequence[LogitsReader]) -> None:
        """Take the hidden states of prompts that are embedded, and free the slots of those that are read."""
        owners, rows = [reader.owner for reader in readers], [reader.rows for reader in readers]
        self._pending[-1].expect_hidden(owners, rows, self.runner.hidden_states)
        for reader in readers:
            if not reader.sequence.num_to_prefill:
                self.scheduler.release(reader.slot, reader.sequence)

    def _sample(self, readers: list[LogitsReader], logits_RV: Tensor | SlicedLogits, masks: StepMasks | None) -> None:
        """Sample the next token of each reader; the token may stay on the device for the next step."""
        allowed: Mapping[int, NDArray[np.uint32]] = {}
        if masks is not None:
            allowed, errors = masks.read()
            for reader in (each for each in readers if each.sequence.id in errors):
                # Its logits are not read, so nothing has shown that they are finite.
                self.scheduler.mark_dirty(reader.slot)
                error = errors[reader.sequence.id]
                self._end(reader.slot, reader.sequence, failed(reader.sequence.request, error))
            readers = [reader for reader in readers if reader.sequence.id not in errors]
            if not readers:
                return
        chosen_RV = chosen_rows(logits_RV, [reader.rows.start for reader in readers])
        self._sample_rows([reader.owner for reader in readers], chosen_RV, allowed)

    def _sample_rows(self, owners: Owners, logits_RV: Tensor, allowed: Mapping[int, NDArray[np.uint32]]) -> None:
        """Sample the next token of each owner from its row of logits."""
        states = [_row_state(sequence, allowed.get(sequence.id)) for _, sequence in owners]
        sampled = sample(logits_RV, states, self.scheduler.config.num_tokens)
        if self.runner.overlaps_steps:
            self.runner.store_tokens([slot for slot, _ in owners], sampled.tokens)
        self._pending[-1].expect_tokens(owners, sampled.tokens, sampled.logprobs)
        for slot, _ in owners:
            self.scheduler.expect_token(slot)

    # Collecting

    def _collect(self, *, num_left: int) -> None:
        """Read the results of launched steps, the oldest first, except the newest `num_left`."""
        while len(self._pending) > num_left:
            pending = self._pending.popleft()
            for slot, sequence, piece, terms in pending.scores():
                self._take_scores(slot, sequence, piece, terms)
            for slot, sequence, logprobs in pending.texts():
                self._take_text(slot, sequence, logprobs)
            for slot, sequence, hidden_NC in pending.hidden():
                self._take_hidden(slot, sequence, hidden_NC)
            for slot, sequence, token, logprob in pending.tokens():
                self._take_token(slot, sequence, token, logprob)

    def _take_scores(self, slot: int, sequence: ActiveSequence, piece: int, terms: Sequence[float]) -> None:
        result: LabelScores | None = None
        if not all(map(math.isfinite, terms)):
            self.scheduler.mark_dirty(slot)
            result = LabelScores(logprobs=(), error="the model produced non-finite label scores for this prompt")
        elif sequence.take_piece(piece, terms):
            result = LabelScores(logprobs=tuple(sequence.label_scores))
        if result is not None and not sequence.is_finished:  # it may have been cancelled since the step was launched
            self._end(slot, sequence, result)

    def _take_text(self, slot: int, sequence: ActiveSequence, logprobs: Sequence[float]) -> None:
        """Add the log-probabilities of a text's next tokens, in their order whatever the chunks are."""
        if sequence.is_finished:
            return
        for logprob in logprobs:
            sequence.logprob += logprob
        sequence.num_scored += len(logprobs)
        assert isinstance(sequence.request, TextScoreRequest)
        if not math.isfinite(sequence.logprob):
            self.scheduler.mark_dirty(slot)
            self._end(slot, sequence, failed(sequence.request, "the model produced non-finite logits for this text"))
        elif sequence.num_scored == len(sequence.request.token_ids) - sequence.request.num_context:
            self._end(slot, sequence, TextScore(logprob=sequence.logprob, num_tokens=sequence.num_scored))

    def _take_hidden(self, slot: int, sequence: ActiveSequence, hidden_NC: NDArray[np.float32]) -> None:
        """Add the hidden states of a prompt's next tokens."""
        if sequence.is_finished:
            return
        if sequence.pool is None:
            sequence.pool = Pool(len(sequence.prompt) - sequence.first_pooled_row)
        sequence.pool.add(hidden_NC)
        if not sequence.pool.is_finite:
            self.scheduler.mark_dirty(slot)
            error = "the model produced non-finite hidden states for this prompt"
            self._end(slot, sequence, failed(sequence.request, error))
        elif not sequence.pool.num_missing:
            self._end(slot, sequence, sequence.pool.embedding())

    def _take_token(self, slot: int, sequence: ActiveSequence, token: int, logprob: float) -> None:
        """Append a sequence's next token, and end the sequence where the token ends it."""
        sequence.num_pending -= 1
        if sequence.is_finished:
            return  # the step was launched before the sequence ended or was cancelled: its token is dropped
        if token == NO_TOKEN:
            self.scheduler.mark_dirty(slot)
            error = "the model produced non-finite logits for this prompt"
            if sequence.grammar is not None:
                error += ", or its settings exclude every token that the constraint allows"
            self._end(slot, sequence, failed(sequence.request, error))
            return
        sequence.logprob += logprob
        if self._ends_completion(sequence.request, token):
            self._end(slot, sequence, completed(sequence, "stop"))
        else:
            sequence.new_tokens.append(token)
            if sequence.edits is not None:
                sequence.edits.append(token)
            self._totals.completion_tokens += 1
            if sequence.grammar is None:
                self._end_if_complete(slot, sequence)
            else:
                self._follow_grammar(slot, sequence, token)

    def _ends_completion(self, request: Request | PrefixRequest, token: int) -> bool:
        """Whether a token is an end token, or the control token that a stop string names."""
        assert isinstance(request, GenerateRequest)
        config, stop = self.scheduler.config, request.sampling.stop
        return token in config.end_token_ids or (bool(stop) and config.control_names.get(token) in stop)

    def _end_if_complete(self, slot: int, sequence: ActiveSequence) -> None:
        """End a sequence at a stop string or at its greatest length."""
        assert isinstance(sequence.request, GenerateRequest)
        params, tokens, text_end = sequence.request.sampling, sequence.new_tokens, None
        if params.stop:
            if sequence.stop_finder is None:
                sequence.stop_finder = StopFinder(params, self._decode, self._splits_before)
            text_end = sequence.stop_finder.find(tokens)
        if text_end is not None or len(tokens) >= sequence.max_new_tokens:
            reason: FinishReason = "length" if text_end is None else "stop"
            self._end(slot, sequence, completed(sequence, reason, text_end))

    def _follow_grammar(self, slot: int, sequence: ActiveSequence, token: int) -> None:
        """Append the tokens that a grammar forces; end a sequence that is complete or has its greatest length."""
        assert self._constrained is not None
        self._totals.completion_tokens += self._constrained.take(sequence, token)
        if has_ended(sequence):
            self._end(slot, sequence, completion_of(sequence))

    def _end(self, slot: int, sequence: ActiveSequence, result: Result) -> None:
        self.scheduler.release(slot, sequence)
        sequence.is_finished = True
        self._finish(sequence.id, result)

    def _finish(self, id: int, result: Result) -> None:
        self._totals.finished += 1
        self._results.append((id, result))


def _row_state(sequence: ActiveSequence, mask: NDArray[np.uint32] | None) -> RowState:
    request = sequence.request
    assert isinstance(request, GenerateRequest)
    return RowState(request.sampling, request.seed, sequence.edits, sequence.num_new, mask)
