"""What a ruGPT-3 model is, in numbers. Standard library only, so that planning a job needs no torch.

The fields of the sparse pattern are those of DeepSpeed's `sparse_attention` JSON key, mode "fixed".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from tirazh.errors import CheckpointError

SparseMode = Literal["none", "all", "alternating", "top_bottom"]
_MAX_LAYERS = 4_096
_MAX_SIZE = 1 << 31
SPARSE_MODES: tuple[SparseMode, ...] = ("none", "all", "alternating", "top_bottom")


def _check_size(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_SIZE:
        raise CheckpointError(f"{name} must be at least 1 and a whole number, not {str(value)[:40]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsePattern:
    """The fixed pattern of Sparse Transformers as DeepSpeed wrote it; lengths are counted in blocks."""

    block_size: int = 16
    num_local_blocks: int = 8
    num_global_blocks: int = 1
    num_different_global_patterns: int = 8
    different_layout_per_head: bool = True

    def __post_init__(self) -> None:
        for name in ("block_size", "num_local_blocks", "num_global_blocks", "num_different_global_patterns"):
            _check_size(f"sparse pattern: {name}", getattr(self, name))
        if not isinstance(self.different_layout_per_head, bool):
            raise CheckpointError("sparse pattern: different_layout_per_head must be true or false")
        if self.num_local_blocks % self.num_global_blocks:
            raise CheckpointError(
                f"sparse pattern: num_local_blocks ({self.num_local_blocks}) must be a multiple of "
                f"num_global_blocks ({self.num_global_blocks})"
            )
        most = self.num_local_blocks // self.num_global_blocks
        if self.num_different_global_patterns > most:
            raise CheckpointError(
                f"sparse pattern: num_different_global_patterns is {self.num_different_global_patterns}, but a "
                f"window of {self.num_local_blocks} blocks has room for {most}"
            )
        if not self.different_layout_per_head and self.num_different_global_patterns > 1:
            raise CheckpointError(
                "sparse pattern: num_different_global_patterns above 1 needs different_layout_per_head"
            )

    @property
    def window_size(self) -> int:
        """Tokens in one window."""
        return self.block_size * self.num_local_blocks

    @property
    def global_size(self) -> int:
        """Tokens of a closed window that a head goes on reading."""
        return self.block_size * self.num_global_blocks

    def tokens_kept(self, length: int) -> int:
        """Tokens of a sequence of `length` tokens that a head may still read: the global ones of closed windows, and
        the last window, which closes only when the next token comes."""
        if length == 0:
            return 0
        closed = (length - 1) // self.window_size
        return closed * self.global_size + length - closed * self.window_size

    def most_tokens_kept(self, max_length: int) -> int:
        """Most tokens that are ever kept while a sequence grows to `max_length`."""
        full_windows = max_length // self.window_size * self.window_size
        return max(self.tokens_kept(full_windows), self.tokens_kept(max_length))


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Everything about a model that is not a weight.

    `layout_groups` is the number of model-parallel ranks the model was trained on: the pattern index of a head
    restarts in every group (`--fix-sparsity-layout` of the original). It never changes with serving.
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int = 2048
    sparse_mode: SparseMode = "none"
    sparse_pattern: SparsePattern = SparsePattern()
    layout_groups: int = 1
    tie_word_embeddings: bool = True
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.sparse_mode not in SPARSE_MODES:
            raise CheckpointError(f"unknown sparse mode {self.sparse_mode!r}; the modes are {', '.join(SPARSE_MODES)}")
        for name in ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"):
            _check_size(name, getattr(self, name))
        if self.num_layers > _MAX_LAYERS:  # every layer's name is looked for, so a lie would cost hours
            raise CheckpointError(f"{self.num_layers} layers are more than any model has")
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointError(
                f"hidden size {self.hidden_size} is not a multiple of {self.num_attention_heads} attention heads"
            )
        if self.num_attention_heads % self.layout_groups:
            raise CheckpointError(
                f"{self.num_attention_heads} attention heads cannot be split into {self.layout_groups} "
                "layout groups (--fix-sparsity-layout)"
            )
        self._check_last_window()

    def _check_last_window(self) -> None:
        """In a last window too short for its global blocks they would reach back into the window before: no
        published model does that, and the cache of a sparse layer could not stay minimal."""
        pattern = self.sparse_pattern
        rest = -(-self.max_position_embeddings // pattern.block_size) % pattern.num_local_blocks
        if self.sparse_mode != "none" and 0 < rest < pattern.num_global_blocks:
            raise CheckpointError(
                f"{self.max_position_embeddings} positions leave a last window of {rest} blocks, too short for "
                f"{pattern.num_global_blocks} global blocks"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def is_sparse_layer(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) uses the sparse pattern."""
        match self.sparse_mode:
            case "all":
                return True
            case "alternating":
                return layer % 2 == 0
            case "top_bottom":
                return layer < self.num_layers // 2
            case _:
                return False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises CheckpointError for unknown keys."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise CheckpointError(f"unknown model config keys: {', '.join(unknown)}")
        plain = dict(values)
        if isinstance(plain.get("sparse_pattern"), Mapping):
            plain["sparse_pattern"] = SparsePattern(**plain["sparse_pattern"])
        return cls(**plain)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every weight of such a model, by our name."""
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.embed_positions.weight": (config.max_position_embeddings, hidden),
    }
    linears = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
    linears |= {"mlp.up_proj": (4 * hidden, hidden), "mlp.down_proj": (hidden, 4 * hidden)}
    norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,))
    for layer in range(config.num_layers):
        for name, shape in (norms | linears).items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            shapes[f"model.layers.{layer}.{name}.bias"] = shape[:1]
    shapes |= {"model.norm.weight": (hidden,), "model.norm.bias": (hidden,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """What the user says about a checkpoint that the checkpoint itself may not say (the original's flag names)."""

    sparse_mode: SparseMode | None = None
    num_attention_heads: int | None = None
    fix_sparsity_layout: int | None = None
    deepspeed_config: str | None = None
    preset: str | None = None
    tokenizer: str | None = None
