"""Admission control: start a sequence only if the host's memory can hold the keys and values it may
come to need.

On a CPU a slot's memory grows with its sequences and is never given back. A sequence is admitted
when everything that the running sequences and it may still allocate is at most half of what is free
now. The other half is left to other replicas on the host, which do the same. Admission changes how
many sequences run at once, never a result.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)


class Admission:
    """Memory that slots hold, and memory that is promised to the sequences in them, in bytes."""

    def __init__(
        self,
        num_slots: int,
        *,
        bytes_of: Callable[[int], int],
        free_bytes: Callable[[], int | None],
        num_prefix_slots: int = 0,
    ) -> None:
        """`bytes_of` gives the bytes that a slot takes for a number of tokens (without a shared
        prefix). `free_bytes` gives the bytes that the host has left now; None where that is
        unknown, and then every sequence is admitted. Behind the slots of sequences are those of cached prefixes."""
        self._num_slots, num_slots = num_slots, num_slots + num_prefix_slots
        self._bytes_of = functools.lru_cache(maxsize=1 << 16)(bytes_of)
        self._free_bytes = free_bytes
        self._held = [0] * num_slots
        self._promised: list[int | None] = [None] * num_slots  # None: the slot is empty
        self._budget: int | None = None
        self._has_warned = False

    def measure(self, num_tokens: Sequence[int]) -> None:
        """Note the tokens that each slot holds now, and the memory that is left. Call it before the first of some
        calls of `admit`."""
        for slot, count in enumerate(num_tokens):
            self._grow(slot, count)
        free = self._free_bytes()
        self._budget = None if free is None else free // 2

    def admit(self, slot: int, max_tokens: int) -> bool:
        """Admit a sequence of at most `max_tokens` tokens to an empty slot, if it fits. When no sequence runs, it is
        always admitted; a prefix is not."""
        promised = self._bytes_of(max_tokens)
        pairs = [*zip(self._promised, self._held, strict=True), (promised, self._held[slot])]
        to_allocate = sum(max(0, limit - held) for limit, held in pairs if limit is not None)
        is_prefix, running = slot >= self._num_slots, self._promised[: self._num_slots]
        num_running = len(running) - running.count(None)
        if self._budget is not None and to_allocate > self._budget and (num_running or is_prefix):
            if not is_prefix:
                self._warn_once(num_running)
            return False
        self._promised[slot] = promised
        return True

    def release(self, slot: int, num_tokens: int) -> None:
        """Take back the promise to the slot's sequence, which has ended with `num_tokens` tokens."""
        self._grow(slot, num_tokens)
        self._promised[slot] = None

    def _grow(self, slot: int, num_tokens: int) -> None:
        self._held[slot] = max(self._held[slot], self._bytes_of(num_tokens))

    def _warn_once(self, num_running: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("memory holds only %d sequences at once, fewer than --slots: the others wait", num_running)
