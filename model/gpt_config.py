"""The model's config as a transformers class: the contents of `config.json` in a safetensors
directory of ours."""

from __future__ import annotations

from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.native import config_fields
from tirazh.model.config import ModelConfig, SparsePattern


@strict
class RuGPT3Config(PreTrainedConfig):
    """A ruGPT-3 of any size; `sparse_*` fields as in `tirazh.model.config.ModelConfig`."""

    model_type = "rugpt3"
    keys_to_ignore_at_inference = ("past_key_values",)
    base_model_tp_plan = {  # noqa: RUF012 - transformers reads it as a class attribute
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }

    vocab_size: int = 50264
    hidden_size: int = 2048
    intermediate_size: int | None = None
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    sparse_mode: str = "alternating"
    sparse_pattern: dict[str, int | bool] | None = None
    sparse_layout_groups: int = 1
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.intermediate_size not in (None, 4 * self.hidden_size):
            raise CheckpointError(f"intermediate_size must be {4 * self.hidden_size}, four times hidden_size")
        self.intermediate_size = 4 * self.hidden_size
        super().__post_init__(**kwargs)
        self.to_model_config()  # raises CheckpointError for values that contradict each other

    def to_model_config(self) -> ModelConfig:
        """Convert to our own config. Raises CheckpointError for values that contradict each other."""
        return ModelConfig(
            num_layers=self.num_hidden_layers,
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_attention_heads,
            vocab_size=self.vocab_size,
            max_position_embeddings=self.max_position_embeddings,
            sparse_mode=self.sparse_mode,  # type: ignore[arg-type]
            sparse_pattern=SparsePattern(**(self.sparse_pattern or {})),  # type: ignore[arg-type]
            layout_groups=self.sparse_layout_groups,
            tie_word_embeddings=self.tie_word_embeddings,
            layer_norm_eps=self.layer_norm_eps,
        )

    @classmethod
    def from_model_config(cls, config: ModelConfig, **extra: Any) -> Self:
        """Convert from our own config; `extra` goes to PreTrainedConfig (token ids, dtype)."""
        return cls(**config_fields(config), **extra)
