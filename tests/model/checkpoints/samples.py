"""Small checkpoints of every format with random weights, written the way each format's own software writes them.

`random_weights` returns the expected tensors by tirazh's names; the writers split, fuse, transpose
and rename them, so that reading must restore them bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tirazh.model.checkpoints.native import native_config
from tirazh.model.config import ModelConfig, SparsePattern, expected_shapes

Weights = dict[str, torch.Tensor]

TINY = ModelConfig(
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    vocab_size=48,
    max_position_embeddings=64,
    sparse_mode="alternating",
    sparse_pattern=SparsePattern(block_size=4, num_local_blocks=4, num_different_global_patterns=4),
)
TINY_DENSE = ModelConfig(num_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=48, max_position_embeddings=64)
_LAYER_NAMES = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
    "self_attn.o_proj": "attention.dense",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}
_GPT2_NAMES = {
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}


def random_weights(config: ModelConfig, *, seed: int = 0, dtype: torch.dtype = torch.float16) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * 0.05).to(dtype)
        for name, shape in expected_shapes(config).items()
    }


def rank_weights(weights: Weights, config: ModelConfig, *, rank: int, mp: int) -> Weights:
    """Return the state dict of rank `rank` of `mp` model-parallel ranks of the original training run."""

    def shard(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        return tensor.chunk(mp, dim=dim)[rank].clone()

    shards = {
        "word_embeddings.weight": shard(weights["model.embed_tokens.weight"], 0),
        "position_embeddings.weight": weights["model.embed_positions.weight"],
        "transformer.final_layernorm.weight": weights["model.norm.weight"],
        "transformer.final_layernorm.bias": weights["model.norm.bias"],
    }
    for layer in range(config.num_layers):
        ours, theirs = f"model.layers.{layer}", f"transformer.layers.{layer}"
        for part in ("weight", "bias"):
            for name, stored in _LAYER_NAMES.items():
                tensor = weights[f"{ours}.{name}.{part}"]
                if name == "mlp.up_proj":
                    tensor = shard(tensor, 0)
                elif name in ("self_attn.o_proj", "mlp.down_proj") and part == "weight":
                    tensor = shard(tensor, 1)
                shards[f"{theirs}.{stored}.{part}"] = tensor
            qkv = [shard(weights[f"{ours}.self_attn.{letter}_proj.{part}"], 0) for letter in "qkv"]
            shards[f"{theirs}.attention.query_key_value.{part}"] = torch.cat(qkv)
    return shards


def write_rugpts(
    folder: Path,
    weights: Weights,
    config: ModelConfig = TINY,
    *,
    mp: int = 1,
    layout: str = "tracked",
    model_args: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write ranks as `layout`: "tracked" (ITER/mp_rank_RR…), "old" (written by torch < 1.6), "bare" (no folder),
    "megatron" (iter_0000100/mp_rank_RR/…) or "release" (release/mp_rank_RR/…)."""
    tag = {"tracked": "100", "old": "100", "bare": ".", "megatron": "iter_0000100", "release": "release"}[layout]
    (folder / tag).mkdir(parents=True, exist_ok=True)
    if layout != "bare":
        word = "release" if layout == "release" else "100"
        (folder / "latest_checkpointed_iteration.txt").write_text(f"{word}\n")
    for rank in range(mp):
        key = "module" if layout in ("tracked", "old", "bare") else "model"
        values = {key: rank_weights(weights, config, rank=rank, mp=mp), "iteration": 100, **(extra or {})}
        path = folder / tag / f"mp_rank_{rank:02d}_model_states.pt"
        if key == "model":
            path = folder / tag / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
            path.parent.mkdir()
        torch.save(values, path, _use_new_zipfile_serialization=layout != "old")
    if model_args is None:
        model_args = {"num_attention_heads": config.num_attention_heads, "sparse_mode": config.sparse_mode}
    write_json(folder / "model_args.json", model_args)
    write_json(folder / "deepspeed_config.json", {"sparse_attention": sparse_attention(config)})
    return folder


def sparse_attention(config: ModelConfig) -> dict[str, Any]:
    values = asdict(config.sparse_pattern)
    values["block"] = values.pop("block_size")
    return {"mode": "fixed", "attention": "unidirectional", "horizontal_global_attention": False, **values}


def gpt2_weights(weights: Weights, config: ModelConfig, *, prefix: str = "transformer.") -> Weights:
    names = {
        f"{prefix}wte.weight": weights["model.embed_tokens.weight"],
        f"{prefix}wpe.weight": weights["model.embed_positions.weight"],
        f"{prefix}ln_f.weight": weights["model.norm.weight"],
        f"{prefix}ln_f.bias": weights["model.norm.bias"],
    }
    for layer in range(config.num_layers):
        ours, theirs = f"model.layers.{layer}", f"{prefix}h.{layer}"
        for part in ("weight", "bias"):
            for name, stored in _GPT2_NAMES.items():
                tensor = weights[f"{ours}.{name}.{part}"]
                names[f"{theirs}.{stored}.{part}"] = tensor.T.contiguous() if tensor.dim() == 2 else tensor
            qkv = torch.cat([weights[f"{ours}.self_attn.{letter}_proj.{part}"] for letter in "qkv"])
            names[f"{theirs}.attn.c_attn.{part}"] = qkv.T.contiguous() if qkv.dim() == 2 else qkv
    return names


def write_gpt2(
    folder: Path,
    weights: Weights,
    config: ModelConfig = TINY_DENSE,
    *,
    prefix: str = "transformer.",
    num_files: int = 1,
    is_pickle: bool = False,
    **changes: Any,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "model_type": "gpt2",
        "n_layer": config.num_layers,
        "n_embd": config.hidden_size,
        "n_head": config.num_attention_heads,
        "n_positions": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "layer_norm_epsilon": config.layer_norm_eps,
        "activation_function": "gelu_new",
    }
    write_json(folder / "config.json", values | changes)
    write_files(folder, gpt2_weights(weights, config, prefix=prefix), num_files=num_files, is_pickle=is_pickle)
    return folder


def write_port(folder: Path, weights: Weights, config: ModelConfig, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "model_type": "rugpt3xl",
        "auto_map": {"AutoModelForCausalLM": "modeling_rugpt3xl.RuGPT3XLForCausalLM"},
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": 4 * config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_word_embeddings,
        "sparse_mode": config.sparse_mode,
    }
    for name, value in asdict(config.sparse_pattern).items():
        values[f"sparse_{name}"] = value
    write_json(folder / "config.json", values | changes)
    write_files(folder, weights)
    return folder


def write_native(
    folder: Path, weights: Weights, config: ModelConfig = TINY, *, num_files: int = 1, **changes: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", native_config(config, "float16") | changes)
    write_files(folder, weights, num_files=num_files)
    return folder


def write_llama(folder: Path) -> Path:
    """Write a model that is not a ruGPT-3, by transformers itself."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_files(folder: Path, tensors: Weights, *, num_files: int = 1, is_pickle: bool = False) -> None:
    """Write weights under Hugging Face's file names, with an index when there are several files."""
    stem, suffix = ("pytorch_model", "bin") if is_pickle else ("model", "safetensors")
    save = torch.save if is_pickle else save_file
    if num_files == 1:
        save(tensors, folder / f"{stem}.{suffix}")
        return
    weight_map = {}
    for index in range(num_files):
        name = f"{stem}-{index + 1:05d}-of-{num_files:05d}.{suffix}"
        part = {key: tensors[key] for key in list(tensors)[index::num_files]}
        save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    write_json(folder / f"{stem}.{suffix}.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1))


def change_json(path: Path, **changes: Any) -> None:
    """Replace keys of a JSON file; a value of None removes the key."""
    values = json.loads(path.read_text()) | changes
    write_json(path, {key: value for key, value in values.items() if value is not None})
