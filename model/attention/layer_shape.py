"""What the KV cache and the attention backends must know about one attention layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from tirazh.model.config import SparsePattern


@dataclass(frozen=True, slots=True)
class AttentionRules:
    """What a dense layer of a transformers model asks of attention besides causality.

    `window`: a query sees the last `window` keys only, its own included (sliding-window attention).
    `softcap`: scores s, scaled but not yet masked, become softcap * tanh(s / softcap).
    """

    window: int | None = None
    softcap: float | None = None

    def within(self, max_length: int) -> AttentionRules:
        """Return the rules for sequences of at most `max_length` tokens: without a window that
        holds them whole."""
        holds_all = self.window is not None and self.window >= max_length
        return replace(self, window=None) if holds_all else self


NO_RULES = AttentionRules()


class LayerKind(Enum):
    """The two kinds of attention layer.

    A step is laid out once per kind and used by all layers of the kind.
    """

    DENSE = "dense"
    SPARSE = "sparse"


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The shape of one layer's keys and values: `num_heads` key/value heads on this rank,
    `head_dim` elements each.

    A sparse layer also has a `pattern` and, for each of its heads, the token offset within a window
    at which the head's global tokens begin (`global_starts`). Both are None in a dense layer, which
    may have `rules` instead. A layer with a sliding window still keeps all tokens.
    """

    num_heads: int
    head_dim: int
    pattern: SparsePattern | None = None
    global_starts: tuple[int, ...] | None = None
    rules: AttentionRules = NO_RULES

    @property
    def kind(self) -> LayerKind:
        return LayerKind.DENSE if self.pattern is None else LayerKind.SPARSE

    @property
    def sparse_pattern(self) -> SparsePattern:
        """The pattern of a sparse layer; must not be read from a dense one."""
        assert self.pattern is not None
        return self.pattern

    def tokens_kept(self, length: int) -> int:
        """Number of tokens of a sequence of `length` tokens that the cache still holds."""
        return length if self.pattern is None else self.pattern.tokens_kept(length)

    def capacity(self, max_length: int) -> int:
        """Largest number of tokens that one slot of the cache ever holds."""
        return max_length if self.pattern is None else self.pattern.most_tokens_kept(max_length)
