"""The token budget of a search."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBudget:
    """Tokens that the model may read: those of every prompt. A shared prefix, such as few-shot examples, counts once in
    every rung, because the engine computes it once for all rows of a rung.

    `reserved` tokens are kept for the held-out rows. `used` are the tokens that were read.
    """

    limit: int
    reserved: int = 0
    used: int = 0

    @property
    def left(self) -> int:
        """The tokens that the search may still use, 0 or more."""
        return max(0, self.limit - self.reserved - self.used)

    def spend(self, tokens: int) -> None:
        """Count tokens that were read."""
        self.used += tokens
