"""Sequences in slots, and how their next tokens are laid out in a step. Pure planning: no tensor, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tirazh.model.engine.label_scoring import LabelTrie
from tirazh.model.requests import GenerateRequest, Request
from tirazh.model.step import PLACEHOLDER, FreshSlot, Phase, Segment, Step, chunk_length


@dataclass(slots=True)
class ActiveSequence:
    """A request on its way, which gets at most `most_new` tokens. `num_cached` tokens of it are in the cache or in the
    step being planned, `num_shared` of those in the job's shared prefix; `admitted` counts up from one sequence that
    got a slot to the next; `num_pending` tokens have been chosen but not been read from the device yet."""

    id: int
    request: Request
    prompt: tuple[int, ...]
    most_new: int
    num_shared: int = 0
    num_cached: int = 0
    admitted: int = 0
    new_tokens: list[int] = field(default_factory=list)
    num_pending: int = 0
    is_over: bool = False

    @property
    def num_to_prefill(self) -> int:
        """Prompt tokens still to be run."""
        return len(self.prompt) - self.num_cached

    @property
    def is_decoding(self) -> bool:
        return not self.num_to_prefill and self.num_to_come > 0

    @property
    def num_new(self) -> int:
        """Tokens of the completion so far, read or not."""
        return len(self.new_tokens) + self.num_pending

    @property
    def num_to_come(self) -> int:
        """Tokens that its completion may still get."""
        return self.most_new - self.num_new

    @property
    def length(self) -> int:
        """Tokens of prompt and completion so far."""
        return len(self.prompt) + self.num_new

    @property
    def num_own(self) -> int:
        """Of those, the ones that lie in its own slot or will in the next step: not in the shared prefix."""
        return self.num_cached - self.num_shared + self.num_new

    @property
    def most_own(self) -> int:
        """What `num_own` may come to."""
        return len(self.prompt) - self.num_shared + self.most_new

    @property
    def reads_history(self) -> bool:
        """Whether its next token can only be chosen when all before have been read."""
        return isinstance(self.request, GenerateRequest) and self.request.sampling.reads_history

    @property
    def last_token(self) -> int:
        """The completion's newest token, or `PLACEHOLDER`."""
        return PLACEHOLDER if self.num_pending else self.new_tokens[-1]

    @property
    def token_ids(self) -> list[int]:
        """Prompt and completion as far as they were read."""
        return [*self.prompt, *self.new_tokens]


Slots = Sequence[ActiveSequence | None]


class StepBuilder:
    """A step being filled, row by row, up to its fixed number of rows.

    `readers`: for every slot whose logits are wanted, the slot and its rows in the step's logits, in order.
    """

    def __init__(self, phase: Phase, num_rows: int) -> None:
        self.phase: Phase = phase
        self.num_rows = num_rows
        self.row = 0
        self.readers: list[tuple[int, slice]] = []
        self._token_ids = np.zeros(num_rows, np.int64)
        self._positions = np.zeros(num_rows, np.int64)
        self._segments: list[Segment] = []
        self._logit_rows: list[int] = []

    def has_room(self, num_tokens: int) -> bool:
        """Whether `num_tokens` more rows fit."""
        return self.row + num_tokens <= self.num_rows

    def add(self, slot: int, tokens: Sequence[int], start: int) -> None:
        """Tokens `start`, `start + 1`, … of the sequence in `slot`."""
        self._segments.append(Segment(slot, self.row, start, len(tokens)))
        self._put(tokens, range(start, start + len(tokens)))

    def add_trie(self, slot: int, trie: LabelTrie, start: int) -> None:
        """The labels' trie, hung on the sequence in `slot`, which has `start` tokens."""
        if trie.token_ids:
            self._segments.append(Segment(slot, self.row, start, len(trie.token_ids), trie.parents))
            self._put(trie.token_ids, [start + depth for depth in trie.depths])

    def read(self, slot: int, num_rows: int) -> None:
        """Want the logits of the last `num_rows` rows added, for `slot`."""
        first = len(self._logit_rows)
        self._logit_rows += range(self.row - num_rows, self.row)
        self.readers.append((slot, slice(first, first + num_rows)))

    def build(self, fresh_slots: tuple[FreshSlot, ...]) -> Step:
        """The finished step."""
        logit_rows = np.array(self._logit_rows, np.int64)
        return Step(self.phase, self._token_ids, self._positions, tuple(self._segments), logit_rows, fresh_slots)

    def _put(self, tokens: Sequence[int], positions: Sequence[int]) -> None:
        rows = slice(self.row, self.row + len(tokens))
        self._token_ids[rows], self._positions[rows] = tokens, positions
        self.row = rows.stop


def build_prefill_step(slots: Slots, num_rows: int, trie: LabelTrie | None, *, window: int, most: int) -> StepBuilder:
    """Pieces of prompts of at most `most` tokens that fill the step best, with a piece of the longest waiting prompt
    among them. A piece ends where a window of its own prompt does, so how a prompt is cut depends on the prompt alone.
    Counts the pieces into the sequences."""
    plan = StepBuilder("prefill", num_rows)
    waiting = [(slot, s) for slot, s in enumerate(slots) if s is not None and s.num_to_prefill]
    waiting.sort(key=lambda pair: pair[1].admitted)
    cuts = [_pieces(sequence, num_rows, trie, window=window, most=most) for _, sequence in waiting]
    chosen = best_filling([[piece.end_row for piece in pieces] for pieces in cuts], num_rows)
    for (slot, sequence), pieces, count in zip(waiting, cuts, chosen, strict=True):
        for piece in pieces[:count]:
            start = sequence.num_cached
            plan.add(slot, sequence.prompt[start : start + piece.length], start)
            sequence.num_cached += piece.length
            if piece.trie:
                plan.add_trie(slot, piece.trie, start + piece.length)
            if not sequence.num_to_prefill:
                plan.read(slot, 1 + piece.num_tree_tokens)
    return plan


@dataclass(frozen=True, slots=True)
class _Piece:
    """`length` tokens of a prompt, after the last of them perhaps the labels; with the prompt's earlier pieces of this
    step they take `end_row` rows."""

    length: int
    trie: LabelTrie | None
    end_row: int

    @property
    def num_tree_tokens(self) -> int:
        return len(self.trie.token_ids) if self.trie else 0


def _pieces(sequence: ActiveSequence, num_rows: int, trie: LabelTrie | None, *, window: int, most: int) -> list[_Piece]:
    """The next pieces of a prompt, as many as a whole step holds."""
    pieces: list[_Piece] = []
    start, end_row = sequence.num_cached, 0
    while start < len(sequence.prompt):
        length = min(len(sequence.prompt) - start, chunk_length(start, window=window, most=most))
        start += length
        is_scored = start == len(sequence.prompt) and not isinstance(sequence.request, GenerateRequest)
        hung = trie if is_scored else None
        end_row += length + (len(hung.token_ids) if hung else 0)
        if end_row > num_rows:
            break
        pieces.append(_Piece(length, hung, end_row))
    return pieces


def best_filling(sizes: Sequence[Sequence[int]], capacity: int) -> list[int]:
    """How many pieces to take of every prompt so that they fill `capacity` rows best. `sizes[i]`: rows of prompt i's
    first piece, of its first two, …; each at most `capacity`. At least one piece of prompt 0 is taken; among fillings
    equally good, the first prompts are preferred."""
    if not sizes:
        return []
    # Bit r of reachable[i]: prompts i, i + 1, … can take exactly r rows.
    reachable, everything = [1], (1 << capacity + 1) - 1
    for options in reversed(sizes):
        after = reachable[-1]
        with_this = after
        for rows in options:
            with_this |= after << rows
        reachable.append(with_this & everything)
    reachable.reverse()
    fits = max((reachable[1] << rows & everything for rows in sizes[0]), key=int.bit_length)
    left, chosen = fits.bit_length() - 1, []
    for index, options in enumerate(sizes):
        counts = range(len(options), 0 if index == 0 else -1, -1)
        rows_of = [0, *options]
        count = next(c for c in counts if rows_of[c] <= left and reachable[index + 1] >> left - rows_of[c] & 1)
        chosen.append(count)
        left -= rows_of[count]
    return chosen


def build_decode_step(slots: Slots, num_rows: int) -> StepBuilder | None:
    """One token for as many decoding sequences as there are rows: those with the most tokens still to come, so that
    all end at about the same time. None when there is none."""
    ready = [(slot, s) for slot, s in enumerate(slots) if s is not None and s.is_decoding]
    if not ready:
        return None
    if len(ready) > num_rows:
        ready.sort(key=lambda pair: -pair[1].num_to_come)
    # With a row for every slot each keeps its own: a GPU then reads the cache in place.
    has_own_row = len(slots) <= num_rows
    plan = StepBuilder("decode", num_rows)
    for row, (slot, sequence) in enumerate(sorted(ready[:num_rows], key=lambda pair: pair[0])):
        plan.row = slot if has_own_row else row
        plan.add(slot, (sequence.last_token,), sequence.length - 1)
        plan.read(slot, 1)
    return plan
