"""The configuration of a ruGPT-3 model, and the settings a user gives for a checkpoint.

Standard library only, so that planning a job needs no torch. The fields of the sparse pattern are
those of DeepSpeed's `sparse_attention` JSON key, mode "fixed".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tirazh.errors import CheckpointError, RequestError, did_you_mean

SparseMode = Literal["none", "all", "alternating", "top_bottom"]
SPARSE_MODES: tuple[SparseMode, ...] = ("none", "all", "alternating", "top_bottom")
# With `--invariant tensor-parallel` the inputs of a row-parallel linear are cut into so many chunks, whatever the
# number of ranks (`layers/chunked_linear.py`).
CHUNKS = 4
_HEAD_UNIT = 16  # elements; the attention kernels that compute every head by itself take heads of a multiple
_MAX_LAYERS = 4_096
_MAX_SIZE = 1 << 31  # of any size in a config


def checked_sparse_mode(value: object, place: str) -> SparseMode:
    """Return `value` when it is a sparse mode. Raises CheckpointError that names `place`."""
    for mode in SPARSE_MODES:
        if value == mode:
            return mode
    if value is None:
        raise CheckpointError(f"{place} is missing; it must be one of {', '.join(SPARSE_MODES)}")
    hint = did_you_mean(str(value), SPARSE_MODES)
    raise CheckpointError(f"{place} must be one of {', '.join(SPARSE_MODES)}, not {value!r}{hint}")


def check_split(num_attention_heads: int | None, tp_size: int) -> None:
    """Raise RequestError when `tp_size` ranks cannot share the attention heads evenly.

    None stands for a model that does not give its number of heads: it passes.
    """
    if num_attention_heads is not None and num_attention_heads % tp_size:
        raise RequestError(
            f"--tensor-parallel {tp_size} does not divide the model's {num_attention_heads} attention heads; "
            f"give a divisor of {num_attention_heads}"
        )


def check_invariant_ranks(tp_size: int) -> None:
    """Raise RequestError when `tp_size` ranks cannot share the chunks of `--invariant tensor-parallel` evenly."""
    if tp_size < 1 or CHUNKS % tp_size:
        raise RequestError(
            f"--invariant tensor-parallel needs --tensor-parallel 1, 2 or 4, not {tp_size}; give one of them, or leave "
            "--invariant out"
        )


def check_invariant(config: ModelConfig | None, tp_size: int) -> None:
    """Raise RequestError for a model, or a number of ranks, that `--invariant tensor-parallel` does not take.

    `config` is None for a model that is not a ruGPT-3.
    """
    check_invariant_ranks(tp_size)
    if config is None:
        raise RequestError(
            "--invariant tensor-parallel is for ruGPT-3 models, and this one is of another family; "
            "leave --invariant out"
        )
    if config.num_attention_heads % CHUNKS:
        raise RequestError(
            f"--invariant tensor-parallel needs a multiple of {CHUNKS} attention heads, but the model has "
            f"{config.num_attention_heads}; leave --invariant out"
        )
    if config.head_dim % _HEAD_UNIT:
        raise RequestError(
            f"--invariant tensor-parallel needs attention heads of a multiple of {_HEAD_UNIT} elements, but those of "
            f"the model have {config.head_dim}; leave --invariant out"
        )


def _check_size(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_SIZE:
        raise CheckpointError(f"{name} must be at least 1 and a whole number, not {str(value)[:40]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsePattern:
    """DeepSpeed's "fixed" pattern of Sparse Transformers (Child et al. 2019).

    Lengths are counted in blocks.
    """

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
                f"window of {self.num_local_blocks} blocks holds {most} at most"
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
        """Tokens of a closed window that a head still attends to."""
        return self.block_size * self.num_global_blocks

    def tokens_kept(self, length: int) -> int:
        """Count the tokens that a head still attends to in a sequence of `length` tokens.

        They are the global tokens of closed windows and all tokens of the last window, which closes
        only when the next token arrives.
        """
        if length == 0:
            return 0
        closed = (length - 1) // self.window_size
        return closed * self.global_size + length - closed * self.window_size

    def most_tokens_kept(self, max_length: int) -> int:
        """Return the maximum of `tokens_kept` while a sequence grows to `max_length` tokens."""
        full_windows = max_length // self.window_size * self.window_size
        return max(self.tokens_kept(full_windows), self.tokens_kept(max_length))


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Everything about a ruGPT-3 model except its weights.

    `layout_groups` is the number of model-parallel ranks the model was trained on: a head's pattern
    index restarts in every group (`--fix-sparsity-layout` of the original code). It does not depend
    on `--tensor-parallel`.
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
        checked_sparse_mode(self.sparse_mode, "sparse_mode")
        for name in ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"):
            _check_size(name, getattr(self, name))
        if self.num_layers > _MAX_LAYERS:  # every layer's tensors are searched, so a false number would cost hours
            raise CheckpointError(f"num_layers is {self.num_layers}, above the limit of {_MAX_LAYERS}")
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
        """Refuse a last window that is shorter than its global blocks.

        Those blocks would reach back into the previous window. No published model does that, and
        the sparse layer's KV cache could not stay minimal.
        """
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
        """Return whether layer `layer` (from 0) uses the sparse pattern."""
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
        """Return the fields as plain JSON values."""
        return asdict(self)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of the model, by its tirazh name."""
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
class Preset:
    """The shape of a published model.

    Its DeepSpeed JSON may be unpublished: the sparse pattern is then XL's unless a file gives
    another one.
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    sparse_mode: SparseMode = "alternating"
    layout_groups: int | None = None


PRESETS = {
    "rugpt3xl": Preset(num_layers=24, hidden_size=2048, num_attention_heads=16),
    "rugpt3-13b": Preset(num_layers=40, hidden_size=5120, num_attention_heads=40, layout_groups=4),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """What the user says about a checkpoint that the checkpoint may not say itself.

    The names are the flags of the original training code. `deepspeed_config` is the path of a
    DeepSpeed JSON, `tokenizer` the path of a directory. Raises CheckpointError for a value that no
    checkpoint could have.
    """

    sparse_mode: SparseMode | None = None
    num_attention_heads: int | None = None
    fix_sparsity_layout: int | None = None
    deepspeed_config: str | None = None
    preset: str | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.sparse_mode is not None:
            checked_sparse_mode(self.sparse_mode, "--sparse-mode")
        if self.preset is not None and self.preset not in PRESETS:
            hint = did_you_mean(self.preset, PRESETS)
            raise CheckpointError(f"--preset must be one of {', '.join(PRESETS)}, not {self.preset!r}{hint}")
        counts = (
            ("--num-attention-heads", self.num_attention_heads),
            ("--fix-sparsity-layout", self.fix_sparsity_layout),
        )
        for flag, count in counts:
            if count is not None and count < 1:
                raise CheckpointError(f"{flag} must be at least 1, not {count}")
