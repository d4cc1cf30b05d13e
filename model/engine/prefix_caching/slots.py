"""The slots that hold cached prefixes, behind those in which sequences run.

A prefix is computed once and its slot is forked into the slots of the sequences that go on from it. It is freed
when the last waiting sequence that begins with it has started. Nothing here needs torch or a model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tirazh.model.engine.prefix_caching.tree import CachedPrefix, PrefixNode, PrefixRequest
from tirazh.model.engine.sequences import ActiveSequence

MIN_SAVED = 64  # tokens of prefill that a prefix must save: an eighth of a prefill step on a CPU
MOST_PREFIX_SLOTS = 8  # more are of no use: sequences that begin with a cached prefix start before others
_SLOTS_PER_PREFIX = 32  # where memory limits the number of slots, as on a GPU


def divide_slots(wanted: int, num_slots: int) -> tuple[int, int]:
    """Return how many of a cache's slots run sequences, at most `wanted`, and how many hold prefixes."""
    num_prefixes = min(MOST_PREFIX_SLOTS, max(num_slots - wanted, num_slots // _SLOTS_PER_PREFIX))
    return min(wanted, num_slots - num_prefixes), num_prefixes


class PrefixSlots:
    """`num_slots` slots from `first_slot` on. The prefix in each, if there is one, is a sequence without a request."""

    def __init__(self, first_slot: int, num_slots: int) -> None:
        self._first = first_slot
        self._nodes: list[PrefixNode | None] = [None] * num_slots
        self._ids = itertools.count(-1, -1)  # never those of requests
        self.min_saved = MIN_SAVED

    @property
    def sequences(self) -> list[ActiveSequence | None]:
        """The prefix in each slot."""
        return [None if node is None or node.cached is None else node.cached.sequence for node in self._nodes]

    @property
    def free_slot(self) -> int | None:
        """A slot that holds no prefix."""
        return next((self._first + index for index, node in enumerate(self._nodes) if node is None), None)

    @property
    def is_computing(self) -> bool:
        """Whether a prefix is not computed yet."""
        return any(sequence is not None and sequence.num_to_prefill for sequence in self.sequences)

    @property
    def num_expected(self) -> int:
        """How many sequences wait for prefixes that are not computed yet."""
        return sum(self.num_waiting(sequence) for sequence in self.sequences if sequence and sequence.num_to_prefill)

    def num_waiting(self, prefix: ActiveSequence) -> int:
        """How many sequences wait that begin with a prefix."""
        return sum(len(node.waiting) for node in self._nodes if node and node.cached and node.cached.sequence is prefix)

    def first_candidates(self) -> Iterator[ActiveSequence]:
        """The waiting sequences that begin with computed prefixes, the longest prefixes first, so that these are
        free for others soon."""
        computed = [node for node in self._nodes if node and node.cached and node.cached.is_computed]
        for node in sorted(computed, key=lambda node: -node.length):
            yield from tuple(node.waiting.values())

    def hold(self, node: PrefixNode, slot: int, source: CachedPrefix | None) -> ActiveSequence:
        """Give a free slot to the prefix of a node, which extends another one. Returns the prefix."""
        example = next(iter(node.waiting.values()))
        num_cached = example.num_shared if source is None else len(source.sequence.prompt)
        prefix = ActiveSequence(
            next(self._ids),
            PrefixRequest(node.is_whole),
            example.prompt[: node.length],
            max_new_tokens=0,
            num_shared=example.num_shared,
            num_cached=num_cached,
        )
        node.cached = CachedPrefix(slot, prefix)
        self._nodes[slot - self._first] = node
        return prefix

    def release_unused(self) -> list[CachedPrefix]:
        """Free the slots of prefixes with which no waiting sequence begins. Returns what they held."""
        return self._release([node for node in self._nodes if node is not None and not node.waiting])

    def release_all(self) -> list[CachedPrefix]:
        """Free all slots. Returns what they held."""
        return self._release([node for node in self._nodes if node is not None])

    def _release(self, nodes: list[PrefixNode]) -> list[CachedPrefix]:
        released = []
        for node in nodes:
            assert node.cached is not None
            released.append(node.cached)
            self._nodes[node.cached.slot - self._first], node.cached = None, None
        return released
