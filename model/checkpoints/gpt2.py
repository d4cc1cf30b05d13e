"""Hugging Face GPT-2 directories: ruGPT-3 Small, Medium and Large, ruGPT-3.5 13B, mGPT. All dense.

Their linear layers are Conv1D, stored as (inputs, outputs), with q, k and v fused. They are
transposed and split while they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.contents import Contents
from tirazh.model.checkpoints.files import open_weights, positive_number, whole_number
from tirazh.model.checkpoints.tensors import LazyTensor, StoredTensor, third, whole
from tirazh.model.config import ModelConfig

_TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
_LINEARS = {"self_attn.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}
_NORMS = {"input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"}


def is_plain_gpt2(config: Mapping[str, Any]) -> bool:
    """Return whether config.json describes a GPT-2 that computes the same as a dense ruGPT-3."""
    width = config.get("n_inner")
    return (
        config.get("model_type") == "gpt2"
        and config.get("activation_function", "gelu_new") in _TANH_GELUS
        and (width is None or (isinstance(config.get("n_embd"), int) and width == 4 * config["n_embd"]))
        and config.get("scale_attn_weights", True)
        and not config.get("scale_attn_by_inverse_layer_idx", False)
        and not config.get("add_cross_attention", False)
        and "quantization_config" not in config
    )


def open_gpt2(folder: Path, values: Mapping[str, Any]) -> Contents:
    """Open a GPT-2 directory whose config.json holds `values`. Raises CheckpointError."""
    path = folder / "config.json"
    config = ModelConfig(
        num_layers=whole_number(values, "n_layer", path),
        hidden_size=whole_number(values, "n_embd", path),
        num_attention_heads=whole_number(values, "n_head", path),
        vocab_size=whole_number(values, "vocab_size", path),
        max_position_embeddings=whole_number(values, "n_positions", path),
        tie_word_embeddings=bool(values.get("tie_word_embeddings", True)),
        layer_norm_eps=positive_number(values, "layer_norm_epsilon", 1e-5, path),
    )
    stored, files = open_weights(folder)
    tensors = _tensors(config, stored, folder)
    return Contents(kind="gpt2", folder=folder, files=files, description=config, tensors=lambda _: tensors)


def _tensors(config: ModelConfig, stored: Mapping[str, StoredTensor], folder: Path) -> dict[str, LazyTensor]:
    # A GPT2Model that was saved without its LM head has no `transformer.` before its names.
    prefix = "transformer." if "transformer.wte.weight" in stored else ""

    def get(name: str) -> list[StoredTensor]:
        if name not in stored:
            raise CheckpointError(f"{folder} has no tensor {name}, though config.json requires it; copy it again")
        return [stored[name]]

    if f"{prefix}h.{config.num_layers}.ln_1.weight" in stored:
        raise CheckpointError(
            f"{folder} holds more layers than n_layer of config.json says ({config.num_layers}); correct config.json"
        )
    result = {
        "model.embed_tokens.weight": whole(get(f"{prefix}wte.weight")),
        "model.embed_positions.weight": whole(get(f"{prefix}wpe.weight")),
        "model.norm.weight": whole(get(f"{prefix}ln_f.weight")),
        "model.norm.bias": whole(get(f"{prefix}ln_f.bias")),
    }
    if not config.tie_word_embeddings:
        result["lm_head.weight"] = whole(get("lm_head.weight"))
    for layer in range(config.num_layers):
        ours, theirs = f"model.layers.{layer}", f"{prefix}h.{layer}"
        for part in ("weight", "bias"):
            for name, original in _NORMS.items():
                result[f"{ours}.{name}.{part}"] = whole(get(f"{theirs}.{original}.{part}"))
            for name, original in _LINEARS.items():
                stored_linear = get(f"{theirs}.{original}.{part}")
                result[f"{ours}.{name}.{part}"] = whole(stored_linear, is_transposed=part == "weight")
            fused = get(f"{theirs}.attn.c_attn.{part}")
            for index, letter in enumerate("qkv"):
                result[f"{ours}.self_attn.{letter}_proj.{part}"] = third(fused, index, is_transposed=part == "weight")
    return result
