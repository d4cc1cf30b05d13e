"""Which sequences may begin, so that keys and values never outgrow the host's memory.

On a CPU a slot's memory is taken as its sequence grows, and never given back. A sequence is let in when what all
running ones may still come to, itself included, is at most half of what is free now: the other half is for other
replicas on the host, which do the same. It changes no row, only how many run at once; one always may.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)


class Admission:
    """`bytes_of` says what a slot takes for a sequence of so many tokens of its own (without a shared prefix),
    `free_bytes` what the host has left now (None: unknown, and everybody may begin)."""

    def __init__(self, num_slots: int, *, bytes_of: Callable[[int], int], free_bytes: Callable[[], int | None]) -> None:
        self._bytes_of = functools.lru_cache(maxsize=1 << 16)(bytes_of)
        self._free_bytes = free_bytes
        self._room: int | None = 0
        self._taken = [0] * num_slots
        self._promised: list[int | None] = [None] * num_slots  # to the slot's sequence; None: there is none
        self._has_warned = False

    def look(self, num_tokens: Sequence[int]) -> None:
        """See what is free now that the slots hold so many tokens each; before `admit`."""
        for slot, count in enumerate(num_tokens):
            self._grow(slot, count)
        free = self._free_bytes()
        self._room = None if free is None else free // 2

    def admit(self, slot: int, num_tokens: int) -> bool:
        """Whether a sequence that may come to `num_tokens` can begin in the empty `slot`; then it does."""
        promised = self._bytes_of(num_tokens)
        pairs = [*zip(self._promised, self._taken, strict=True), (promised, self._taken[slot])]
        to_come = sum(max(0, most - taken) for most, taken in pairs if most is not None)
        num_running = len(self._promised) - self._promised.count(None)
        if self._room is not None and to_come > self._room and num_running:
            self._warn_once(num_running)
            return False
        self._promised[slot] = promised
        return True

    def leave(self, slot: int, num_tokens: int) -> None:
        """The slot's sequence has ended, with `num_tokens`."""
        self._grow(slot, num_tokens)
        self._promised[slot] = None

    def _grow(self, slot: int, num_tokens: int) -> None:
        self._taken[slot] = max(self._taken[slot], self._bytes_of(num_tokens))

    def _warn_once(self, num_running: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("memory has room for %d sequences at once, fewer than --slots: others wait", num_running)
