"""The batch engine: requests in, results out, over a fixed number of slots.

A slot holds one sequence. Free slots are refilled at once; prompts are prefilled in pieces that depend on the prompt
alone, several prompts to a step; then all slots decode together. Every step has one of two fixed shapes, so a row's
arithmetic, and with it every token, is the same whatever runs beside it. Runs on rank 0; `runner` executes each step,
here and on the other ranks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from model.errors import RequestError
from model.label_scoring import LabelTrie, build_trie, label_logprobs
from model.requests import Completion, EngineCounters, EngineJob, GenerateRequest, LabelScores, Request, Result
from model.sampling import RowState, sample
from model.step import FreshSlot, Segment, Step
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
    prefill_rows: int = 256
    decode_rows: int = 32


@dataclass(slots=True)
class _Sequence:
    """A request that holds a slot. `num_cached` tokens of it are in the cache or in the step being planned."""

    id: int
    request: Request
    prompt: tuple[int, ...]
    num_cached: int = 0
    new_tokens: list[int] = field(default_factory=list)

    @property
    def num_to_prefill(self) -> int:
        return len(self.prompt) - self.num_cached

    @property
    def token_ids(self) -> list[int]:
        return [*self.prompt, *self.new_tokens]


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
        shared prefix. Raises RequestError where the labels cannot be scored in one step."""
        self.runner, self.config, self.job = runner, config, job
        self._decode = decode
        self._tile = min(runner.window_size, config.prefill_rows)
        self._trie: LabelTrie | None = build_trie(job.labels) if job.labels else None
        if self._trie and len(self._trie.token_ids) > config.prefill_rows:
            raise RequestError(
                f"the labels have {len(self._trie.token_ids)} tokens in all but their last; "
                f"a step has room for {config.prefill_rows}: use fewer or shorter labels"
            )
        self._waiting: deque[_Sequence] = deque()
        self._slots: list[_Sequence | None] = [None] * config.num_slots
        self._fresh: list[FreshSlot] = []
        self._spoilt: set[int] = set()  # slots in which an earlier sequence left NaN
        self._results: list[tuple[int, Result]] = []
        self._next_id = 0
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
        """Queue requests, the longest first; returns their ids in the order given. One that cannot be run (an empty
        or too long prompt, ids out of range) gets its error as its result."""
        sequences = []
        for request in requests:
            sequences.append(_Sequence(self._next_id, request, tuple(map(int, request.prompt_token_ids))))
            self._next_id += 1
        for sequence in sorted(sequences, key=lambda s: -self._length_needed(s)):
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
            self._prefill()
        elif any(self._slots):
            self._decode_step()
        finished, self._results = self._results, []
        return finished

    # Admission

    def _length_needed(self, sequence: _Sequence) -> int:
        request = sequence.request
        extra = request.sampling.max_new_tokens if isinstance(request, GenerateRequest) else 0
        return len(sequence.prompt) + extra

    def _problem(self, sequence: _Sequence) -> str | None:
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
            self._fresh.append(FreshSlot(slot, uses_prefix, scrub=slot in self._spoilt))
            self._spoilt.discard(slot)
            self._slots[slot] = sequence
            self._prompt_tokens += len(sequence.prompt)

    def _take_fresh(self) -> tuple[FreshSlot, ...]:
        fresh, self._fresh = tuple(self._fresh), []
        return fresh

    # Prefill

    def _should_prefill(self) -> bool:
        """Prefill when a whole step of prompt tokens has gathered, or when most slots would idle otherwise."""
        pending = [s.num_to_prefill for s in self._slots if s is not None and s.num_to_prefill]
        num_decoding = sum(s is not None and not s.num_to_prefill for s in self._slots)
        if not pending:
            return False
        return sum(pending) >= self.config.prefill_rows or num_decoding < 3 * len(pending)

    def _prefill(self) -> None:
        """One step of pieces of prompts; a piece ends where a window of its own prompt does."""
        token_ids = np.zeros(self.config.prefill_rows, np.int64)
        positions = np.zeros(self.config.prefill_rows, np.int64)
        segments: list[Segment] = []
        readers: list[tuple[int, list[int]]] = []
        row = 0
        for slot, sequence in enumerate(self._slots):
            while sequence is not None and sequence.num_to_prefill:
                start = sequence.num_cached
                length = min(sequence.num_to_prefill, self._tile - start % self._tile)
                is_last = length == sequence.num_to_prefill
                tree = self._trie if is_last and not isinstance(sequence.request, GenerateRequest) else None
                if row + length + (len(tree.token_ids) if tree else 0) > self.config.prefill_rows:
                    break
                token_ids[row : row + length] = sequence.prompt[start : start + length]
                positions[row : row + length] = np.arange(start, start + length)
                segments.append(Segment(slot, row, start, length))
                row += length
                sequence.num_cached += length
                if not is_last:
                    continue
                rows = [row - 1]
                if tree and tree.token_ids:
                    size = len(tree.token_ids)
                    token_ids[row : row + size] = tree.token_ids
                    positions[row : row + size] = len(sequence.prompt) + np.array(tree.depths)
                    segments.append(Segment(slot, row, len(sequence.prompt), size, tree.parents))
                    rows += range(row, row + size)
                    row += size
                readers.append((slot, rows))
        self._run("prefill", token_ids, positions, segments, readers)

    # Decode

    def _decode_step(self) -> None:
        """One token for every decoding slot, `decode_rows` neighbouring slots to a step."""
        for first in range(0, self.config.num_slots, self.config.decode_rows):
            token_ids = np.zeros(self.config.decode_rows, np.int64)
            positions = np.zeros(self.config.decode_rows, np.int64)
            segments, readers = [], []
            for row, sequence in enumerate(self._slots[first : first + self.config.decode_rows]):
                if sequence is None or sequence.num_to_prefill:
                    continue
                token_ids[row], positions[row] = sequence.new_tokens[-1], len(sequence.token_ids) - 1
                segments.append(Segment(first + row, row, int(positions[row]), 1))
                readers.append((first + row, [row]))
            if segments:
                self._run("decode", token_ids, positions, segments, readers)

    # Running and reading

    def _run(self, phase, token_ids, positions, segments, readers) -> None:  # type: ignore[no-untyped-def]
        rows = [row for _, of_slot in readers for row in of_slot]
        step = Step(phase, token_ids, positions, tuple(segments), np.array(rows, np.int64), self._take_fresh())
        logits_RV = self.runner.execute(step)
        self._steps += 1
        first = 0
        to_sample: list[tuple[int, int]] = []
        for slot, of_slot in readers:
            sequence = self._slots[slot]
            assert sequence is not None
            if isinstance(sequence.request, GenerateRequest):
                to_sample.append((slot, first))
            else:
                self._score(slot, sequence, logits_RV[first : first + len(of_slot)])
            first += len(of_slot)
        if to_sample:
            self._sample(to_sample, logits_RV)

    def _score(self, slot: int, sequence: _Sequence, logits_RV: Tensor) -> None:
        assert self._trie is not None
        scores = label_logprobs(logits_RV[:, : self.config.num_tokens], self._trie)
        is_bad = not np.isfinite(scores).all()
        if is_bad:
            self._spoilt.add(slot)
        error = "the model gave no finite score for this prompt" if is_bad else None
        self._release(slot, sequence, LabelScores(logprobs=() if is_bad else tuple(scores), error=error))

    def _sample(self, to_sample: list[tuple[int, int]], logits_RV: Tensor) -> None:
        sequences = [self._slots[slot] for slot, _ in to_sample]
        states = [
            RowState(s.request.sampling, s.request.seed, s.token_ids, len(s.new_tokens))  # type: ignore[union-attr]
            for s in sequences
            if s is not None
        ]
        tokens = sample(logits_RV[[row for _, row in to_sample]], states, self.config.num_tokens)
        for (slot, _), token in zip(to_sample, tokens, strict=True):
            self._append(slot, token)

    def _append(self, slot: int, token: int | None) -> None:
        """Take a sequence's next token, and end the sequence where it ends."""
        sequence = self._slots[slot]
        assert sequence is not None and isinstance(sequence.request, GenerateRequest)
        params = sequence.request.sampling
        if token is None:
            self._spoilt.add(slot)
            error = "the model's logits are not numbers for this prompt"
            self._release(slot, sequence, _failed(sequence.request, error))
        elif token in self.config.end_token_ids:
            self._release(slot, sequence, Completion(token_ids=tuple(sequence.new_tokens), finish_reason="stop"))
        else:
            sequence.new_tokens.append(token)
            self._completion_tokens += 1
            end = find_stop(sequence.new_tokens, params.stop, self._decode) if params.stop else None
            is_full = len(sequence.new_tokens) >= params.max_new_tokens
            is_full = is_full or len(sequence.token_ids) >= self.config.max_length
            if end is not None or is_full:
                reason = "length" if end is None else "stop"
                tokens = tuple(sequence.new_tokens)
                self._release(slot, sequence, Completion(token_ids=tokens, finish_reason=reason, text_end=end))

    def _release(self, slot: int, sequence: _Sequence, result: Result) -> None:
        self._slots[slot] = None
        self._finish(sequence, result)

    def _finish(self, sequence: _Sequence, result: Result) -> None:
        self._finished += 1
        self._results.append((sequence.id, result))


def _failed(request: Request, error: str) -> Result:
    if isinstance(request, GenerateRequest):
        return Completion(token_ids=(), finish_reason="error", error=error)
    return LabelScores(logprobs=(), error=error)
