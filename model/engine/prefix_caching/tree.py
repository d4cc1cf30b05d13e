"""The radix tree of waiting prompts: which of them begin with the same tokens.

An edge holds the tokens of one prefill chunk, and a chunk ends where a window of its prompt ends. So a prompt
that continues behind a node is cut, and rounded, as one that is computed alone. Nothing here needs torch or a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tirazh.model.requests import EmbedRequest, GenerateRequest, TextScoreRequest
from tirazh.model.step import chunk_length

if TYPE_CHECKING:
    from tirazh.model.engine.sequences import ActiveSequence

_Edge = tuple[bool, tuple[int, ...]]  # whether the prompt ends with these tokens, and the tokens


@dataclass(frozen=True, slots=True)
class PrefixRequest:
    """Stands in a sequence for a request, where the sequence is a prefix that is cached.

    `is_whole`: it is the whole prompt of several requests, which all read the logits of its last token.
    """

    is_whole: bool


@dataclass(frozen=True, slots=True, eq=False)
class CachedPrefix:
    """The prefix `sequence`, whose keys and values `slot` holds as soon as it is computed."""

    slot: int
    sequence: ActiveSequence

    @property
    def is_computed(self) -> bool:
        """Whether other slots may be forked from it."""
        return not self.sequence.num_to_prefill


@dataclass(slots=True, eq=False)
class PrefixNode:
    """The first `length` tokens of the sequences `waiting`, by id, in the order of their arrival.

    `edge` leads to the node from its parent. `cached` is the prefix of these tokens, if a slot holds it.
    """

    length: int
    edge: _Edge
    waiting: dict[int, ActiveSequence] = field(default_factory=dict)
    children: dict[_Edge, PrefixNode] = field(default_factory=dict)
    cached: CachedPrefix | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the tokens are the whole prompts of the sequences."""
        return self.edge[0]


class PrefixTree:
    """The sequences of one job that wait. The `path` of each lists its nodes, the shortest first, down to the one
    below which it is alone."""

    def __init__(self, *, window: int, max_chunk: int) -> None:
        """Prompts are cut into chunks by `window` and `max_chunk`, in tokens, as `chunk_length` says."""
        self._window, self._max_chunk = window, max_chunk
        self._roots: dict[int, PrefixNode] = {}  # by the tokens of the job's shared prefix: all of them or none

    def add(self, sequence: ActiveSequence) -> None:
        """Add a sequence that waits."""
        node, is_alone = self._root(sequence), False
        while not is_alone and (edge := self._edge(sequence, node.length)) is not None:
            is_alone = edge not in node.children
            if not is_alone and len(node.children[edge].waiting) == 1:
                self._extend(node.children[edge])
            node = self._enter(sequence, node, edge)

    def remove(self, sequence: ActiveSequence) -> None:
        """Remove a sequence, which starts or is cancelled."""
        parent = self._root(sequence)
        for node in sequence.path:
            del node.waiting[sequence.id]
            if not node.waiting:
                del parent.children[node.edge]
            parent = node

    def _root(self, sequence: ActiveSequence) -> PrefixNode:
        return self._roots.setdefault(sequence.num_shared, PrefixNode(sequence.num_shared, (False, ())))

    def _extend(self, node: PrefixNode) -> None:
        """Lead the only sequence of a node one node further, unless it has been there before."""
        (sequence,) = node.waiting.values()
        edge = self._edge(sequence, node.length)
        if sequence.path[-1] is node and edge is not None:
            self._enter(sequence, node, edge)

    def _enter(self, sequence: ActiveSequence, node: PrefixNode, edge: _Edge) -> PrefixNode:
        child = node.children.setdefault(edge, PrefixNode(node.length + len(edge[1]), edge))
        child.waiting[sequence.id] = sequence
        sequence.path.append(child)
        return child

    def _edge(self, sequence: ActiveSequence, start: int) -> _Edge | None:
        """The next chunk of a prompt at token `start`; None where it ends, or must be computed for this prompt."""
        length = len(sequence.prompt)
        end = min(length, start + chunk_length(start, window=self._window, max_length=self._max_chunk))
        is_whole = end == length
        return (is_whole, sequence.prompt[start:end]) if start < end <= _most_shared(sequence) else None


def _most_shared(sequence: ActiveSequence) -> int:
    """How many tokens of a prompt may come from a prefix: all but those whose logits or hidden states are read.

    The logits of a prompt's last token are read once for all completions of it, unless a grammar may force tokens
    that belong to the prompt.
    """
    request = sequence.request
    if isinstance(request, TextScoreRequest):
        return sequence.first_scored_row
    if isinstance(request, EmbedRequest):
        return sequence.first_pooled_row
    is_shared = isinstance(request, GenerateRequest) and request.constraint is None
    return len(sequence.prompt) if is_shared else len(sequence.prompt) - 1


def deepest_cached(sequence: ActiveSequence) -> CachedPrefix | None:
    """The longest cached prefix of a sequence that waits."""
    return next((node.cached for node in reversed(sequence.path) if node.cached is not None), None)


def missing_prefix(sequence: ActiveSequence, *, min_saved: int) -> PrefixNode | None:
    """The next prefix that is worth to be cached before a sequence starts, behind those that are cached.

    Its tokens begin several waiting prompts, which go on differently there, and caching it saves at least
    `min_saved` tokens of prefill.
    """
    cached = deepest_cached(sequence)
    length = sequence.num_shared if cached is None else len(cached.sequence.prompt)
    counts = [*(len(node.waiting) for node in sequence.path), 0]
    for node, count, deeper in zip(sequence.path, counts, counts[1:], strict=False):
        if node.length > length and count > deeper and (count - 1) * (node.length - length) >= min_saved:
            return node
    return None
