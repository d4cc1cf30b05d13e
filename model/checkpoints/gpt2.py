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
from tirazh.model.checkpoints.declared import is_tanh_gelu, notice_code, read_flag, refuse_sparsity
from tirazh.model.checkpoints.files import open_weights, positive_number, whole_number
from tirazh.model.checkpoints.heads import HEAD, with_stored_head
from tirazh.model.checkpoints.tensors import LazyTensor, StoredTensor, stored_names, third, whole
from tirazh.model.checkpoints.unused import check_unused, named
from tirazh.model.config import ModelConfig

# GPT-2's names by ours, of the linear layers that are not fused, and of the norms.
LINEARS = {"self_attn.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}
NORMS = {"input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"}


def is_plain_gpt2(config: Mapping[str, Any]) -> bool:
    """Return whether config.json describes a GPT-2 that computes the same as a dense ruGPT-3."""
    width = config.get("n_inner")
    return (
        config.get("model_type") == "gpt2"
        and is_tanh_gelu(config.get("activation_function", "gelu_new"))
        and (width is None or (isinstance(config.get("n_embd"), int) and width == 4 * config["n_embd"]))
        and config.get("scale_attn_weights", True)
        and not config.get("scale_attn_by_inverse_layer_idx", False)
        and not config.get("add_cross_attention", False)
    )


def open_gpt2(folder: Path, values: Mapping[str, Any]) -> Contents:
    """Open a GPT-2 directory whose config.json holds `values`. Raises CheckpointError."""
    path = folder / "config.json"
    refuse_sparsity(values, path)
    config = ModelConfig(
        num_layers=whole_number(values, "n_layer", path),
        hidden_size=whole_number(values, "n_embd", path),
        num_attention_heads=whole_number(values, "n_head", path),
        vocab_size=whole_number(values, "vocab_size", path),
        max_position_embeddings=whole_number(values, "n_positions", path),
        tie_word_embeddings=read_flag(values, "tie_word_embeddings", default=True, path=path),
        layer_norm_eps=positive_number(values, "layer_norm_epsilon", 1e-5, path),
    )
    weights = open_weights(folder)
    stored = weights.stored
    # A GPT2Model that was saved without its LM head has no `transformer.` before its names.
    prefix = "transformer." if "transformer.wte.weight" in stored else ""
    config, notices = with_stored_head(config, stored, f"{prefix}wte.weight", str(folder))
    tensors = _tensors(config, stored, prefix, folder)
    unused = check_unused(str(folder), stored.keys() - {HEAD} - stored_names(tensors))
    return Contents(
        kind="gpt2",
        folder=folder,
        files=weights.files,
        description=config,
        tensors=lambda _: tensors,
        notices=(*weights.notices, *notice_code(values, path), *notices, *unused),
    )


def _tensors(
    config: ModelConfig, stored: Mapping[str, StoredTensor], prefix: str, folder: Path
) -> dict[str, LazyTensor]:
    missing = [name for name in _required(config, prefix) if name not in stored]
    if missing:
        raise CheckpointError(f"{folder} has no tensor {named(missing)}, though config.json requires it; copy it again")

    def get(name: str) -> list[StoredTensor]:
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
        result[HEAD] = whole(get(HEAD))
    for layer in range(config.num_layers):
        ours, theirs = f"model.layers.{layer}", f"{prefix}h.{layer}"
        for part in ("weight", "bias"):
            for name, original in NORMS.items():
                result[f"{ours}.{name}.{part}"] = whole(get(f"{theirs}.{original}.{part}"))
            for name, original in LINEARS.items():
                stored_linear = get(f"{theirs}.{original}.{part}")
                result[f"{ours}.{name}.{part}"] = whole(stored_linear, is_transposed=part == "weight")
            fused = get(f"{theirs}.attn.c_attn.{part}")
            for index, letter in enumerate("qkv"):
                result[f"{ours}.self_attn.{letter}_proj.{part}"] = third(fused, index, is_transposed=part == "weight")
    return result


def _required(config: ModelConfig, prefix: str) -> list[str]:
    """Return the stored names of all tensors of the model."""
    names = [f"{prefix}{name}" for name in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias")]
    modules = (*NORMS.values(), *LINEARS.values(), "attn.c_attn")
    for layer in range(config.num_layers):
        names += [f"{prefix}h.{layer}.{module}.{part}" for module in modules for part in ("weight", "bias")]
    return names if config.tie_word_embeddings else [*names, HEAD]
