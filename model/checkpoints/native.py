"""tirazh's own safetensors directory: what `tirazh convert` and our model's `save_pretrained` write.

Reads such a directory, and gives the config.json of a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.contents import Contents
from tirazh.model.checkpoints.declared import check_activation, read_flag
from tirazh.model.checkpoints.files import Weights, open_weights, positive_number, whole_number
from tirazh.model.checkpoints.heads import HEAD, with_stored_head
from tirazh.model.checkpoints.tensors import LazyTensor, StoredTensor, whole
from tirazh.model.checkpoints.unused import check_unused, named
from tirazh.model.config import ModelConfig, SparsePattern, checked_sparse_mode, expected_shapes


def open_native(folder: Path, values: Mapping[str, Any]) -> Contents:
    """Open a directory of tirazh's own format, whose config.json holds `values`.

    Raises CheckpointError.
    """
    config = _read_config(values, folder / "config.json")
    return same_names("tirazh", config, open_weights(folder), folder)


def config_fields(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of config.json and `RuGPT3Config` that describe a model."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": 4 * config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "layer_norm_eps": config.layer_norm_eps,
        "sparse_mode": config.sparse_mode,
        "sparse_pattern": config.to_dict()["sparse_pattern"],
        "sparse_layout_groups": config.layout_groups,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def native_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the config.json of tirazh's own format, as transformers and `open_native` read it."""
    kind = {"model_type": "rugpt3", "architectures": ["RuGPT3ForCausalLM"]}
    return kind | config_fields(config) | {"dtype": dtype}


def check_width(values: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError unless the MLP is four times as wide as the model, the only width of a ruGPT-3."""
    hidden = whole_number(values, "hidden_size", path)
    if values.get("intermediate_size") not in (None, 4 * hidden):
        raise CheckpointError(f"{path}: intermediate_size must be {4 * hidden}, four times hidden_size")


def same_names(kind: str, config: ModelConfig, weights: Weights, folder: Path) -> Contents:
    """Return the contents of a directory that stores its tensors under tirazh's names.

    Raises CheckpointError when tensors are missing, or belong to more layers than the config has.
    """
    stored = weights.stored
    config, notices = with_stored_head(config, stored, "model.embed_tokens.weight", str(folder))
    tensors = _tensors(config, stored, folder)
    unused = check_unused(str(folder), stored.keys() - {HEAD} - tensors.keys())
    return Contents(
        kind=kind,
        folder=folder,
        files=weights.files,
        description=config,
        tensors=lambda _: tensors,
        notices=(*weights.notices, *notices, *unused),
    )


def _tensors(config: ModelConfig, stored: Mapping[str, StoredTensor], folder: Path) -> dict[str, LazyTensor]:
    missing = [name for name in expected_shapes(config) if name not in stored]
    if missing:
        raise CheckpointError(f"{folder} has no tensor {named(missing)}, though config.json requires it; copy it again")
    if f"model.layers.{config.num_layers}.input_layernorm.weight" in stored:
        raise CheckpointError(
            f"{folder} holds more layers than config.json says ({config.num_layers}); correct config.json"
        )
    return {name: whole([stored[name]]) for name in expected_shapes(config)}


def _read_config(values: Mapping[str, Any], path: Path) -> ModelConfig:
    pattern = values.get("sparse_pattern")
    if not isinstance(pattern, dict | None):
        raise CheckpointError(f"{path}: sparse_pattern must be a JSON object, not {pattern!r}")
    if values.get("sparse_mode") != "none" and pattern is None:
        raise CheckpointError(f"{path}: sparse_pattern is missing, though sparse_mode is {values.get('sparse_mode')!r}")
    check_width(values, path)
    check_activation(values, path)
    sizes = ("hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings")
    try:
        return ModelConfig(
            num_layers=whole_number(values, "num_hidden_layers", path),
            **{name: whole_number(values, name, path) for name in sizes},
            sparse_mode=checked_sparse_mode(values.get("sparse_mode"), f"{path}: sparse_mode"),
            sparse_pattern=SparsePattern(**(pattern or {})),
            layout_groups=whole_number({"sparse_layout_groups": 1} | dict(values), "sparse_layout_groups", path),
            tie_word_embeddings=read_flag(values, "tie_word_embeddings", default=True, path=path),
            layer_norm_eps=positive_number(values, "layer_norm_eps", 1e-5, path),
        )
    except TypeError as error:
        raise CheckpointError(f"{path}: sparse_pattern is not a pattern ({error})") from error
