"""Sequences whose completions follow a grammar: masks, forced tokens, and how such a completion ends.

Where a grammar leaves one text only (the keys of a JSON object), its tokens are not sampled: a run of them is appended
to the completion at once and computed like a prompt, as one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tirazh.errors import RequestError
from tirazh.model.constraints.grammar import Grammars
from tirazh.model.constraints.schema_text import GrammarError
from tirazh.model.engine.sequences import ActiveSequence, Slots
from tirazh.model.engine.token_masks import PendingMasks, TokenMasks
from tirazh.model.requests import Completion, GenerateRequest, Request

# The shortest run of forced tokens that is computed as one chunk. On a CPU a step has as many rows as it needs. On a
# GPU a prefill step always has 4,096 rows and takes about as long as two decode steps of 256, for which all other
# sequences wait; a quarter of the slots, for which the scheduler waits, gain that from about 10 tokens each on.
_MIN_FORCED_RUN = {"cpu": 2, "cuda": 16}


def min_forced_run(device: str) -> int:
    """Return the shortest run of forced tokens that is computed as one chunk on a device."""
    return _MIN_FORCED_RUN["cpu" if device.startswith("cpu") else "cuda"]


@dataclass(frozen=True, slots=True)
class StepMasks:
    """The masks of a step that is being computed; `sequences` are those that have a grammar."""

    sequences: Sequence[ActiveSequence]
    pending: PendingMasks

    def read(self) -> tuple[dict[int, NDArray[np.uint32]], dict[int, str]]:
        """Wait; return the masks, and what is wrong with sequences without one, by the sequences' ids."""
        masks_RW, problems = self.pending.read()
        masks, failed = {}, {}
        for sequence, mask_W, problem in zip(self.sequences, masks_RW, problems, strict=True):
            if problem is None:
                masks[sequence.id] = mask_W
            else:
                failed[sequence.id] = f"the completion cannot be continued as the constraint asks: {problem}"
        return masks, failed


class ConstrainedDecoding:
    """The grammars of an engine's sequences. Belongs to the engine's thread."""

    def __init__(self, grammars: Grammars, *, num_threads: int, min_forced_run: int) -> None:
        """`num_threads` compute masks. At least `min_forced_run` forced tokens are computed as one chunk; fewer are
        decoded one by one."""
        self._grammars, self._num_threads, self._min_forced_run = grammars, num_threads, min_forced_run
        self._masks: TokenMasks | None = None

    def find_problem(self, request: Request) -> str | None:
        """Return why a request's constraint cannot be used; None when it can, or there is none."""
        constraint = request.constraint if isinstance(request, GenerateRequest) else None
        if constraint is None:
            return None
        try:
            self._grammars.compiled(constraint)
        except GrammarError as error:
            return f"the {constraint.kind} cannot be used: {error}"
        except RequestError as error:  # the tokenizer's; planning refuses such a job
            return str(error)
        return None

    def start(self, slots: Slots) -> list[tuple[int, ActiveSequence]]:
        """Start the grammars of newly admitted sequences, and append what they force at the beginning. Returns these
        sequences with their slots."""
        started = []
        for slot, sequence in enumerate(slots):
            if sequence is None or sequence.grammar is not None or sequence.constraint is None:
                continue
            sequence.grammar = self._grammars.compiled(sequence.constraint).start()
            self._append_forced(sequence)
            started.append((slot, sequence))
        return started

    def take(self, sequence: ActiveSequence, token: int) -> int:
        """Follow a sampled token, and append the tokens that it forces. Returns how many these are."""
        assert sequence.grammar is not None
        sequence.grammar.take((token,))
        return self._append_forced(sequence)

    def begin_masks(self, sequences: Sequence[ActiveSequence]) -> StepMasks | None:
        """Start to compute the masks of the next tokens; None where no sequence has a grammar."""
        chosen = [sequence for sequence in sequences if sequence.grammar is not None]
        if not chosen:
            return None
        if self._masks is None:
            self._masks = TokenMasks(self._grammars.tokens.vocab_size, self._num_threads)
        states: list[Any] = [sequence.grammar for sequence in chosen]
        return StepMasks(chosen, self._masks.begin(states))

    def _append_forced(self, sequence: ActiveSequence) -> int:
        grammar = sequence.grammar
        assert grammar is not None
        if grammar.is_complete or not sequence.num_remaining:
            return 0
        run = grammar.forced()[: sequence.num_remaining]
        if len(run) < self._min_forced_run:
            return 0
        grammar.take(run)
        sequence.append_known(run)
        return len(run)


def has_ended(sequence: ActiveSequence) -> bool:
    """Whether the completion of a sequence with a grammar gets no further token."""
    assert sequence.grammar is not None
    return sequence.grammar.is_complete or not sequence.num_remaining


def completion_of(sequence: ActiveSequence) -> Completion:
    """The result of a sequence with a grammar that has ended by itself or at its greatest length."""
    grammar, tokens = sequence.grammar, tuple(sequence.new_tokens)
    assert grammar is not None
    if grammar.is_complete:
        return Completion(token_ids=tokens, finish_reason="stop", logprob=sequence.logprob)
    error = None
    if not grammar.is_accepting:
        error = f"unfinished: the completion has {len(tokens)} tokens, the most that it may have, and is not complete"
    return Completion(token_ids=tokens, finish_reason="length", logprob=sequence.logprob, error=error)
