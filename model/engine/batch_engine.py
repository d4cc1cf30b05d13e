"""The batch engine: requests in, results out, over a fixed number of slots.

A slot holds one sequence. Free slots are refilled at once; prompts are prefilled in pieces that depend on the prompt
alone, several prompts to a step; then sequences decode together, one token each. Every step has one of two fixed
shapes, so a row's arithmetic, and with it every token, is the same whatever runs beside it. Runs on rank 0; `runner`
executes each step, here and on the other ranks. On a GPU the tokens of a step are read when the next one has begun, so
that it never waits for the planning: `engine/in_flight.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tirazh.model.engine.admission import Admission
from tirazh.model.engine.label_scoring import LabelTrie, build_trie, sum_terms, token_logprobs
from tirazh.model.engine.pending_step import PendingStep
from tirazh.model.engine.sampling import NO_TOKEN, RowState, sample
from tirazh.model.engine.sequences import ActiveSequence, StepBuilder, build_decode_step, build_prefill_step
from tirazh.model.engine.stop_strings import find_stop
from tirazh.model.requests import (
    Completion,
    EngineCounters,
    EngineJob,
    FinishReason,
    GenerateRequest,
    LabelScores,
    Request,
    Result,
)
from tirazh.model.step import FreshSlot, Step


class StepRunner(Protocol):
    """Whatever executes planned steps: `tirazh.model.engine.runner.ModelRunner`, or that behind a broadcast to
    other ranks. Where it
    `overlaps_steps`, a decode step may have rows whose token is `PLACEHOLDER`, the last one given to `store_tokens`; its
    attention then has to bear NaN that an earlier sequence left in a slot."""

    window_size: int
    overlaps_steps: bool

    def execute(self, step: Step) -> Tensor: ...

    def store_tokens(self, slots: Sequence[int], tokens: Tensor) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """`num_slots` sequences of at most `max_length` tokens. A prefill step has `prefill_rows` rows, a decode step
    `decode_rows`; both are part of a job's arithmetic and do not follow `num_slots`. Ids from `num_tokens` on are
    padding of the vocabulary; `end_token_ids` end a completion."""

    num_slots: int
    max_length: int
    num_tokens: int
    end_token_ids: tuple[int, ...]
    prefill_rows: int
    decode_rows: int


class BatchEngine:
    """Continuous batching over `config.num_slots` slots. Not thread-safe: one thread adds and steps."""

    def __init__(
        self,
        runner: StepRunner,
        config: EngineConfig,
        job: EngineJob,
        *,
        decode: Callable[[Sequence[int]], str] | None = None,
        admission: Admission | None = None,
    ) -> None:
        """`decode` turns token ids into text; needed only for stop strings. `admission`: of a runner whose slots take
        memory as they grow. The runner must already hold the job's shared prefix. Raises RequestError for labels that
        are empty or the same."""
        self.runner, self.config, self.job = runner, config, job
        self._admission = admission
        self._decode = decode
        self._trie: LabelTrie | None = build_trie(job.labels) if job.labels else None
        # A prompt's last piece and the labels' trie share a step, so a step has room for both.
        num_tree_tokens = len(self._trie.token_ids) if self._trie else 0
        longest_piece = min(runner.window_size, config.prefill_rows)
        self._prefill_rows = max(config.prefill_rows, -(-(longest_piece + num_tree_tokens) // 64) * 64)
        self._waiting: deque[ActiveSequence] = deque()
        self._slots: list[ActiveSequence | None] = [None] * config.num_slots
        self._fresh: list[FreshSlot] = []
        self._dirty_slots: set[int] = set()  # slots in which an earlier sequence left NaN
        self._in_flight: deque[PendingStep] = deque()
        self._results: list[tuple[int, Result]] = []
        self._next_id = self._admitted = 0
        self._prompt_tokens = self._completion_tokens = self._finished = self._steps = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._waiting or self._results or self._in_flight or any(self._slots))

    @property
    def counters(self) -> EngineCounters:
        """Totals so far."""
        return EngineCounters(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            finished=self._finished,
            steps=self._steps,
        )

    def add(self, requests: Iterable[Request]) -> list[int]:
        """Queue requests, those with the most to come first; returns their ids in the order given. One that cannot
        be run (an empty or too long prompt, ids out of range) gets its error as its result."""
        sequences = []
        for request in requests:
            prompt = tuple(request.prompt_token_ids)
            sequences.append(ActiveSequence(self._next_id, request, prompt, self._most_new(request, len(prompt))))
            self._next_id += 1
        for sequence in sorted(sequences, key=lambda s: (-s.num_to_come, -len(s.prompt))):
            error = self._problem(sequence)
            if error is None:
                self._waiting.append(sequence)
            else:
                self._finish(sequence, _failed(sequence.request, error))
        return [sequence.id for sequence in sequences]

    def step(self) -> list[tuple[int, Result]]:
        """Plan and run one forward; returns what has finished, as (id, result)."""
        self._admit()
        if any(sequence is not None and sequence.reads_history for sequence in self._slots):
            self._read_all_but(0)
        plan = self._plan()
        if plan is not None:
            self._run(plan)
        self._read_all_but(1 if plan is not None and self.runner.overlaps_steps else 0)
        finished, self._results = self._results, []
        return finished

    # Admission

    def _problem(self, sequence: ActiveSequence) -> str | None:
        prompt, most = sequence.prompt, self.config.max_length
        if not prompt:
            return "the prompt is empty"
        room = 1 if isinstance(sequence.request, GenerateRequest) else self._label_depth
        if len(prompt) + room > most:
            return f"the prompt has {len(prompt)} tokens; with what follows it, {most} fit"
        own = prompt[self._num_shared(prompt) :]  # what all prompts begin with need not be looked at for each
        if min(own) < 0 or max(own) >= self.config.num_tokens:
            return f"the prompt holds a token id outside 0 to {self.config.num_tokens - 1}"
        if not isinstance(sequence.request, GenerateRequest) and self._trie is None:
            return "labels were asked for, but the job has none"
        return None

    def _num_shared(self, prompt: tuple[int, ...]) -> int:
        """Tokens of a prompt that are the job's shared prefix: all of that or none."""
        prefix = self.job.prefix_token_ids
        return len(prefix) if len(prefix) < len(prompt) and prompt[: len(prefix)] == prefix else 0

    def _most_new(self, request: Request, num_prompt: int) -> int:
        if not isinstance(request, GenerateRequest):
            return 0
        return min(request.sampling.max_new_tokens, self.config.max_length - num_prompt)

    @property
    def _label_depth(self) -> int:
        return 1 + max(self._trie.depths, default=-1) if self._trie else 0

    def _admit(self) -> None:
        free = [slot for slot, holder in enumerate(self._slots) if holder is None]
        if self._admission is not None and free and self._waiting:
            self._admission.look([0 if holder is None else holder.num_own for holder in self._slots])
        for slot in free:
            if not self._waiting:
                break
            sequence = self._waiting[0]
            sequence.num_shared = sequence.num_cached = self._num_shared(sequence.prompt)
            if self._admission is not None and not self._admission.admit(slot, sequence.most_own):
                break
            self._waiting.popleft()
            sequence.admitted = self._admitted = self._admitted + 1
            self._fresh.append(FreshSlot(slot, sequence.num_cached > 0, must_zero=slot in self._dirty_slots))
            self._dirty_slots.discard(slot)
            self._slots[slot] = sequence
            self._prompt_tokens += len(sequence.prompt)

    def _should_prefill(self) -> bool:
        """Prefill when too few sequences decode and a whole step of prompt tokens has gathered, or a good part of the
        slots would wait for one."""
        pending = [s.num_to_prefill for s in self._slots if s is not None and s.num_to_prefill]
        num_decoding = sum(s is not None and s.is_decoding for s in self._slots)
        if not pending or num_decoding >= self.config.decode_rows:
            return False
        return sum(pending) >= self._prefill_rows or num_decoding < 3 * len(pending)

    # Running and reading

    def _plan(self) -> StepBuilder | None:
        if self._should_prefill():
            window, most = self.runner.window_size, self.config.prefill_rows
            return build_prefill_step(self._slots, self._prefill_rows, self._trie, window=window, most=most)
        return build_decode_step(self._slots, self.config.decode_rows)

    def _run(self, plan: StepBuilder) -> None:
        fresh, self._fresh = tuple(self._fresh), []
        logits_RV = self.runner.execute(plan.build(fresh))
        self._steps += 1
        self._in_flight.append(PendingStep())
        to_sample: list[tuple[int, int]] = []
        to_score: list[tuple[int, slice]] = []
        for slot, rows in plan.readers:
            if isinstance(self._holder(slot).request, GenerateRequest):
                to_sample.append((slot, rows.start))
            else:
                to_score.append((slot, rows))
        if to_score:
            self._score(to_score, logits_RV)
        if to_sample:
            self._sample(to_sample, logits_RV)

    def _holder(self, slot: int) -> ActiveSequence:
        sequence = self._slots[slot]
        assert sequence is not None
        return sequence

    def _score(self, to_score: list[tuple[int, slice]], logits_RV: Tensor) -> None:
        """Score the labels of (slot, logits rows) pairs."""
        assert self._trie is not None
        parts = [logits_RV[rows] for _, rows in to_score]
        scored_RV = logits_RV if sum(map(len, parts)) == len(logits_RV) else torch.cat(parts)
        terms = token_logprobs(scored_RV[:, : self.config.num_tokens], self._trie)
        self._in_flight[-1].expect_scores([(slot, self._holder(slot)) for slot, _ in to_score], terms)
        for slot, _ in to_score:
            self._vacate(slot)

    def _sample(self, to_sample: list[tuple[int, int]], logits_RV: Tensor) -> None:
        """Choose the next tokens of (slot, logits row) pairs."""
        sequences = [(slot, self._holder(slot)) for slot, _ in to_sample]
        states = []
        for _, sequence in sequences:
            request = sequence.request
            assert isinstance(request, GenerateRequest)
            history = sequence.token_ids if sequence.reads_history else ()
            states.append(RowState(request.sampling, request.seed, history, sequence.num_new))
            sequence.num_pending += 1
        rows = [row for _, row in to_sample]
        chosen_RV = logits_RV if rows == list(range(len(logits_RV))) else logits_RV[rows]
        tokens_R = sample(chosen_RV, states, self.config.num_tokens)
        if self.runner.overlaps_steps:
            self.runner.store_tokens([slot for slot, _ in to_sample], tokens_R)
        self._in_flight[-1].expect_tokens(sequences, tokens_R)
        for slot, sequence in sequences:
            if not sequence.num_to_come:
                self._vacate(slot)  # whatever the token is, it is the last

    def _read_all_but(self, num_left: int) -> None:
        """Read what the steps came to, the oldest first; the last `num_left` may still be running."""
        while len(self._in_flight) > num_left:
            step = self._in_flight.popleft()
            for slot, sequence, terms in step.scores():
                self._take_scores(slot, sequence, terms)
            for slot, sequence, token in step.tokens():
                self._take_token(slot, sequence, token)

    def _take_scores(self, slot: int, sequence: ActiveSequence, terms: Sequence[float]) -> None:
        assert self._trie is not None
        is_bad = not all(map(math.isfinite, terms))
        if is_bad:
            self._dirty_slots.add(slot)
        error = "the model gave no finite score for this prompt" if is_bad else None
        scores = () if is_bad else tuple(sum_terms(terms, self._trie))
        self._release(slot, sequence, LabelScores(logprobs=scores, error=error))

    def _take_token(self, slot: int, sequence: ActiveSequence, token: int) -> None:
        """Append a sequence's next token, and end the sequence where it ends."""
        sequence.num_pending -= 1
        if sequence.is_over:
            return  # it had ended when this step was begun: nobody knew
        assert isinstance(sequence.request, GenerateRequest)
        params = sequence.request.sampling
        if token == NO_TOKEN:
            self._dirty_slots.add(slot)
            error = "the model's logits are not numbers for this prompt"
            self._release(slot, sequence, _failed(sequence.request, error))
        elif token in self.config.end_token_ids:
            self._release(slot, sequence, Completion(token_ids=tuple(sequence.new_tokens), finish_reason="stop"))
        else:
            sequence.new_tokens.append(token)
            self._completion_tokens += 1
            end = find_stop(sequence.new_tokens, params.stop, self._decode) if params.stop else None
            if end is not None or len(sequence.new_tokens) >= sequence.most_new:
                reason: FinishReason = "length" if end is None else "stop"
                tokens = tuple(sequence.new_tokens)
                self._release(slot, sequence, Completion(token_ids=tokens, finish_reason=reason, text_end=end))

    def _release(self, slot: int, sequence: ActiveSequence, result: Result) -> None:
        if self._slots[slot] is sequence:
            self._vacate(slot)
        sequence.is_over = True
        self._finish(sequence, result)

    def _vacate(self, slot: int) -> None:
        if self._admission is not None:
            self._admission.leave(slot, self._holder(slot).num_own)
        self._slots[slot] = None

    def _finish(self, sequence: ActiveSequence, result: Result) -> None:
        self._finished += 1
        self._results.append((sequence.id, result))


def _failed(request: Request, error: str) -> Result:
    if isinstance(request, GenerateRequest):
        return Completion(token_ids=(), finish_reason="error", error=error)
    return LabelScores(logprobs=(), error=error)
