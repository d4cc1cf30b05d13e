"""Sequences that occupy slots, and `StepBuilder`, which lays their next tokens out as the rows of a
step.

Nothing here needs torch or a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tirazh.model.engine.labels.trie import LabelTrie, SplitTrie, TriePiece, sum_terms
from tirazh.model.engine.logit_edits import LogitEdits
from tirazh.model.engine.pooling import Pool
from tirazh.model.engine.stop_strings import StopFinder
from tirazh.model.requests import Constraint, EmbedRequest, GenerateRequest, Request, ScoreRequest, TextScoreRequest
from tirazh.model.step import PLACEHOLDER, FreshSlot, NewPrefix, Phase, Segment, Step

if TYPE_CHECKING:
    from tirazh.model.constraints.grammar import GrammarState
    from tirazh.model.engine.prefix_caching.tree import PrefixNode, PrefixRequest


@dataclass(slots=True)
class ActiveSequence:
    """A request in progress; it gets at most `max_new_tokens` tokens.

    `num_cached` prompt tokens are in the KV cache or in the step being built; the first
    `num_shared` of them belong to the job's shared prefix. `admission_number` orders sequences by
    when they got their slot. `num_pending` tokens have been sampled, but the CPU has not read them
    from the device yet (overlap scheduling). `edits` are None before the sequence has a slot, and where
    its settings change no logits. `logprob` is the sum over the tokens read so far; of a text that is
    scored, these are `num_scored`. `grammar` is the state of the request's constraint, once it has a slot.
    The first `num_absorbed` new tokens belong to `prompt` as well: they were known before they were sampled.
    `trie` holds the labels of its job; `num_pieces` of its pieces have run or run in the step being built, and
    `label_scores` holds the terms of `num_scored`. `pool` holds the hidden states of a prompt that is embedded.
    `stop_finder` searches the completion of a request that has stop strings, once it has a token.
    While the sequence waits, `path` lists the prefixes that it has in common with others that wait.
    """

    id: int
    request: Request | PrefixRequest
    prompt: tuple[int, ...]
    max_new_tokens: int
    num_shared: int = 0
    num_cached: int = 0
    admission_number: int = 0
    new_tokens: list[int] = field(default_factory=list)
    num_pending: int = 0
    is_finished: bool = False
    edits: LogitEdits | None = None
    logprob: float = 0.0
    num_scored: int = 0
    grammar: GrammarState | None = None
    num_absorbed: int = 0
    trie: SplitTrie | None = None
    num_pieces: int = 0
    label_scores: list[float] = field(default_factory=list)
    pool: Pool | None = None
    stop_finder: StopFinder | None = None
    path: list[PrefixNode] = field(default_factory=list)

    def append_known(self, tokens: Sequence[int]) -> None:
        """Append tokens to the completion that no step has to find: they are prefilled like a prompt, together with
        the token before them, which no step has computed yet."""
        if self.new_tokens[self.num_absorbed :]:
            self.num_cached = self.length - 1
        self.prompt = (*self.prompt, *self.new_tokens[self.num_absorbed :], *tokens)
        self.new_tokens += tokens
        self.num_absorbed = len(self.new_tokens)
        if self.edits is not None:
            for token in tokens:
                self.edits.append(token)

    @property
    def constraint(self) -> Constraint | None:
        """What the completion must follow."""
        return self.request.constraint if isinstance(self.request, GenerateRequest) else None

    @property
    def num_to_prefill(self) -> int:
        """Prompt tokens that no step has computed yet, and nodes of the label pieces that run behind the prompt."""
        return len(self.prompt) - self.num_cached + sum(piece.trie.num_nodes for piece in self.later_pieces)

    @property
    def later_pieces(self) -> Sequence[TriePiece]:
        """The pieces of a large label trie that run in steps of their own when the prompt is computed."""
        if self.trie is None or not isinstance(self.request, ScoreRequest):
            return ()
        return self.trie.later_pieces(self.num_pieces)

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt is computed and the completion is incomplete."""
        return not self.num_to_prefill and self.num_remaining > 0

    @property
    def num_new(self) -> int:
        """Tokens of the completion so far, pending ones included."""
        return len(self.new_tokens) + self.num_pending

    @property
    def num_remaining(self) -> int:
        """Tokens that the completion may still get."""
        return self.max_new_tokens - self.num_new

    @property
    def length(self) -> int:
        """Tokens of prompt and completion so far."""
        return len(self.prompt) + self.num_new - self.num_absorbed

    @property
    def num_slot_tokens(self) -> int:
        """Tokens stored in the sequence's own slot after the next step, that is without the shared
        prefix."""
        return self.num_cached - self.num_shared + self.num_new - self.num_absorbed

    @property
    def max_slot_tokens(self) -> int:
        """Upper bound of `num_slot_tokens` over the life of the sequence."""
        return len(self.prompt) - self.num_shared + self.max_new_tokens - self.num_absorbed

    @property
    def reads_history(self) -> bool:
        """Whether the choice of its next token depends on all earlier tokens (repetition penalty,
        n-gram ban)."""
        return isinstance(self.request, GenerateRequest) and self.request.sampling.reads_history

    @property
    def waits_for_token(self) -> bool:
        """Whether its newest token must be read before its next step: it reads its history, or its grammar's mask
        depends on it."""
        return self.reads_history or self.constraint is not None

    @property
    def last_token(self) -> int:
        """The newest token of the completion, or `PLACEHOLDER` where only the device knows it."""
        return PLACEHOLDER if self.num_pending else self.new_tokens[-1]

    @property
    def first_scored_row(self) -> int:
        """The first prompt token behind which logits are read, of a text that is scored: that before the
        text."""
        assert isinstance(self.request, TextScoreRequest)
        return self.request.num_context - 1

    @property
    def first_pooled_row(self) -> int:
        """The first prompt token whose hidden state is read, of a prompt that is embedded."""
        assert isinstance(self.request, EmbedRequest)
        return self.num_shared if self.request.pooling == "mean" else len(self.prompt) - 1

    def take_piece(self, piece: int, terms: Sequence[float]) -> bool:
        """Add the terms of a piece of the trie to the labels' scores. Returns whether all pieces are in them."""
        assert self.trie is not None
        if not self.label_scores:
            self.label_scores = [0.0] * self.trie.num_labels
        scored = self.trie.pieces[piece]
        for label, score in zip(scored.labels, sum_terms(terms, scored.trie), strict=True):
            self.label_scores[label] += score
        self.num_scored += 1
        return self.num_scored == len(self.trie.pieces)

    def targets(self, num_rows: int) -> Sequence[int]:
        """The tokens that the last `num_rows` cached tokens predict, of a text that is scored."""
        assert isinstance(self.request, TextScoreRequest)
        return self.request.token_ids[self.num_cached - num_rows + 1 : self.num_cached + 1]

    def token_ids(self) -> list[int]:
        """Prompt and completion, without pending tokens."""
        return [*self.prompt, *self.new_tokens[self.num_absorbed :]]


Slots = Sequence[ActiveSequence | None]


class StepBuilder:
    """A step under construction: rows are filled one after another, up to the step's fixed number
    of rows.

    `row` is the next row to fill. `logit_requests` lists each slot whose logits are needed with its
    rows in the logits that the step returns, `hidden_requests` the same for hidden states.
    """

    def __init__(self, phase: Phase, num_rows: int) -> None:
        self.phase: Phase = phase
        self.num_rows = num_rows
        self.row = 0
        self.segments: list[Segment] = []
        self.logit_requests: list[tuple[int, slice]] = []
        self._token_ids = np.zeros(num_rows, np.int64)
        self._positions = np.zeros(num_rows, np.int64)
        self._logit_rows: list[int] = []
        self.hidden_requests: list[tuple[int, slice]] = []
        self._hidden_rows: list[int] = []

    def has_room(self, num_tokens: int) -> bool:
        """Whether `num_tokens` more rows fit."""
        return self.row + num_tokens <= self.num_rows

    def add(self, slot: int, tokens: Sequence[int], start: int) -> None:
        """Add tokens at positions `start`, `start + 1`, … of the sequence in `slot`."""
        self.segments.append(Segment(slot, self.row, start, len(tokens)))
        self._put(tokens, range(start, start + len(tokens)))

    def add_trie(self, slot: int, trie: LabelTrie, start: int) -> None:
        """Add the nodes of a label trie behind the sequence in `slot`, which has `start` tokens."""
        if trie.token_ids:
            self.segments.append(Segment(slot, self.row, start, trie.num_nodes, trie.parents))
            self._put(trie.token_ids, [start + depth for depth in trie.depths])

    def request_logits(self, slot: int, num_rows: int) -> None:
        """Request the logits of the last `num_rows` rows added, on behalf of `slot`."""
        first = len(self._logit_rows)
        self._logit_rows += range(self.row - num_rows, self.row)
        self.logit_requests.append((slot, slice(first, first + num_rows)))

    def request_trie_logits(self, slot: int, trie: LabelTrie) -> None:
        """Request the logits that a trie's terms read, on behalf of `slot`: of the prompt's last row and
        of the trie's nodes, which were added last."""
        if not trie.unread:
            self.request_logits(slot, 1 + trie.num_nodes)
            return
        first, node_0 = len(self._logit_rows), self.row - trie.num_nodes
        self._logit_rows += [node_0 + node for node in trie.read_nodes]
        self.logit_requests.append((slot, slice(first, len(self._logit_rows))))

    def request_hidden(self, slot: int, num_rows: int) -> None:
        """Request the hidden states of the last `num_rows` rows added, on behalf of `slot`."""
        first = len(self._hidden_rows)
        self._hidden_rows += range(self.row - num_rows, self.row)
        self.hidden_requests.append((slot, slice(first, first + num_rows)))

    def build(self, fresh_slots: tuple[FreshSlot, ...], new_prefix: NewPrefix | None = None) -> Step:
        """Return the finished step; `fresh_slots` are those in which a sequence starts with it."""
        return Step(
            self.phase,
            self._token_ids,
            self._positions,
            tuple(self.segments),
            np.array(self._logit_rows, np.int64),
            fresh_slots,
            new_prefix,
            tuple(self._hidden_rows),
        )

    def _put(self, tokens: Sequence[int], positions: Sequence[int]) -> None:
        rows = slice(self.row, self.row + len(tokens))
        self._token_ids[rows], self._positions[rows] = tokens, positions
        self.row = rows.stop


def build_decode_step(slots: Slots, num_rows: int) -> StepBuilder | None:
    """Lay out one token of each of at most `num_rows` decoding sequences; None when no sequence
    decodes.

    With more sequences than rows, those with the most remaining tokens run, so that all end at
    about the same time.
    """
    ready = [(slot, s) for slot, s in enumerate(slots) if s is not None and s.is_decoding]
    if not ready:
        return None
    if len(ready) > num_rows:
        ready.sort(key=lambda pair: -pair[1].num_remaining)
    # Where there is a row for every slot, row and slot are the same number: a GPU then reads the
    # cache in place.
    has_own_row = len(slots) <= num_rows
    builder = StepBuilder("decode", num_rows)
    for row, (slot, sequence) in enumerate(sorted(ready[:num_rows], key=lambda pair: pair[0])):
        builder.row = slot if has_own_row else row
        builder.add(slot, (sequence.last_token,), sequence.length - 1)
        builder.request_logits(slot, 1)
    return builder
