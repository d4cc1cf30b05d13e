"""The batch engine: requests in, results out, over a fixed number of slots.

A slot holds one sequence. Free slots are refilled at once; prompts are prefilled in pieces that depend on the prompt
alone, several prompts to a step; then sequences decode together, one token each. Every step has one of two fixed
shapes, so a row's arithmetic, and with it every token, is the same whatever runs beside it. Runs on rank 0; `runner`
executes each step, here and on the other ranks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from model.label_scoring import LabelTrie, build_trie, label_logprobs
from model.requests import (
    Completion,
    EngineCounters,
    EngineJob,
    FinishReason,
    GenerateRequest,
    LabelScores,
    Request,
    Result,
)
from model.sampling import RowState, sample
from model.sequences import ActiveSequence, StepPlan, plan_decode, plan_prefill
from model.step import FreshSlot, Step
from model.stop_strings import find_stop


class StepRunner(Protocol):
    """Whatever executes planned steps: `model.runner.ModelRunner`, or that behind a broadcast to other ranks."""

    window_size: int

    def execute(self, step: Step) -> Tensor: ...


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


class Engine:
    """Continuous batching over `config.num_slots` slots. Not thread-safe: one thread adds and steps."""

    def __init__(
        self,
        runner: StepRunner,
        config: EngineConfig,
        job: EngineJob,
        *,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        """`decode` turns token ids into text; needed only for stop strings. The runner must already hold the job's
        shared prefix. Raises RequestError for labels that are empty or the same."""
        self.runner, self.config, self.job = runner, config, job
        self._decode = decode
        self._trie: LabelTrie | None = build_trie(job.labels) if job.labels else None
        # A prompt's last piece and the labels' trie share a step, so a step has room for both.
        num_hung = len(self._trie.token_ids) if self._trie else 0
        longest_piece = min(runner.window_size, config.prefill_rows)
        self._prefill_rows = max(config.prefill_rows, -(-(longest_piece + num_hung) // 64) * 64)
        self._waiting: deque[ActiveSequence] = deque()
        self._slots: list[ActiveSequence | None] = [None] * config.num_slots
        self._fresh: list[FreshSlot] = []
        self._spoilt: set[int] = set()  # slots in which an earlier sequence left NaN
        self._results: list[tuple[int, Result]] = []
        self._next_id = self._admitted = 0
        self._prompt_tokens = self._completion_tokens = self._finished = self._steps = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._waiting or self._results or any(self._slots))

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
            sequences.append(ActiveSequence(self._next_id, request, tuple(map(int, request.prompt_token_ids))))
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
        if self._should_prefill():
            window, most = self.runner.window_size, self.config.prefill_rows
            self._run(plan_prefill(self._slots, self._prefill_rows, self._trie, window=window, most=most))
        else:
            plan = plan_decode(self._slots, self.config.decode_rows)
            if plan is not None:
                self._run(plan)
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
        if min(prompt) < 0 or max(prompt) >= self.config.num_tokens:
            return f"the prompt holds a token id outside 0 to {self.config.num_tokens - 1}"
        if not isinstance(sequence.request, GenerateRequest) and self._trie is None:
            return "labels were asked for, but the job has none"
        return None

    @property
    def _label_depth(self) -> int:
        return 1 + max(self._trie.depths, default=-1) if self._trie else 0

    def _admit(self) -> None:
        for slot, holder in enumerate(self._slots):
            if holder is not None:
                continue
            if not self._waiting:
                break
            sequence = self._waiting.popleft()
            prefix = self.job.prefix_token_ids
            uses_prefix = 0 < len(prefix) < len(sequence.prompt) and sequence.prompt[: len(prefix)] == prefix
            sequence.num_cached = len(prefix) if uses_prefix else 0
            sequence.admitted = self._admitted = self._admitted + 1
            self._fresh.append(FreshSlot(slot, uses_prefix, scrub=slot in self._spoilt))
            self._spoilt.discard(slot)
            self._slots[slot] = sequence
            self._prompt_tokens += len(sequence.prompt)

    def _should_prefill(self) -> bool:
        """Prefill when too few sequences decode and a whole step of prompt tokens has gathered, or a good part of the
        slots would wait for one."""
        pending = [s.num_to_prefill for s in self._slots if s is not None and not s.is_decoding]
        num_decoding = sum(s is not None and s.is_decoding for s in self._slots)
        if not pending or num_decoding >= self.config.decode_rows:
            return False
        return sum(pending) >= self._prefill_rows or num_decoding < 3 * len(pending)

    # Running and reading

    def _run(self, plan: StepPlan) -> None:
        fresh, self._fresh = tuple(self._fresh), []
        logits_RV = self.runner.execute(plan.build(fresh))
        self._steps += 1
        to_sample: list[tuple[int, int]] = []
        for slot, rows in plan.readers:
            sequence = self._holder(slot)
            if isinstance(sequence.request, GenerateRequest):
                to_sample.append((slot, rows.start))
            else:
                self._score(slot, logits_RV[rows])
        if to_sample:
            self._sample(to_sample, logits_RV)

    def _holder(self, slot: int) -> ActiveSequence:
        sequence = self._slots[slot]
        assert sequence is not None
        return sequence

    def _score(self, slot: int, logits_RV: Tensor) -> None:
        assert self._trie is not None
        scores = label_logprobs(logits_RV[:, : self.config.num_tokens], self._trie)
        is_bad = not np.isfinite(scores).all()
        if is_bad:
            self._spoilt.add(slot)
        error = "the model gave no finite score for this prompt" if is_bad else None
        self._release(slot, LabelScores(logprobs=() if is_bad else tuple(scores), error=error))

    def _sample(self, to_sample: list[tuple[int, int]], logits_RV: Tensor) -> None:
        """Choose the next tokens of (slot, logits row) pairs."""
        states = []
        for slot, _ in to_sample:
            sequence = self._holder(slot)
            request = sequence.request
            assert isinstance(request, GenerateRequest)
            states.append(RowState(request.sampling, request.seed, sequence.token_ids, len(sequence.new_tokens)))
        rows = [row for _, row in to_sample]
        chosen_RV = logits_RV if rows == list(range(len(logits_RV))) else logits_RV[rows]
        tokens = sample(chosen_RV, states, self.config.num_tokens)
        for (slot, _), token in zip(to_sample, tokens, strict=True):
            self._append(slot, token)

    def _append(self, slot: int, token: int | None) -> None:
        """Take a sequence's next token, and end the sequence where it ends."""
        sequence = self._holder(slot)
        assert isinstance(sequence.request, GenerateRequest)
        params = sequence.request.sampling
        if token is None:
            self._spoilt.add(slot)
            error = "the model's logits are not numbers for this prompt"
            self._release(slot, _failed(sequence.request, error))
        elif token in self.config.end_token_ids:
            self._release(slot, Completion(token_ids=tuple(sequence.new_tokens), finish_reason="stop"))
        else:
            sequence.new_tokens.append(token)
            self._completion_tokens += 1
            end = find_stop(sequence.new_tokens, params.stop, self._decode) if params.stop else None
            is_full = len(sequence.new_tokens) >= params.max_new_tokens
            is_full = is_full or sequence.length >= self.config.max_length
            if end is not None or is_full:
                reason: FinishReason = "length" if end is None else "stop"
                tokens = tuple(sequence.new_tokens)
                self._release(slot, Completion(token_ids=tokens, finish_reason=reason, text_end=end))

    def _release(self, slot: int, result: Result) -> None:
        sequence = self._holder(slot)
        self._slots[slot] = None
        self._finish(sequence, result)

    def _finish(self, sequence: ActiveSequence, result: Result) -> None:
        self._finished += 1
        self._results.append((sequence.id, result))


def _failed(request: Request, error: str) -> Result:
    if isinstance(request, GenerateRequest):
        return Completion(token_ids=(), finish_reason="error", error=error)
    return LabelScores(logprobs=(), error=error)
