"""Our own safetensors directory: what `tirazh convert` writes and `save_pretrained` of our model too.

Called by `checkpoints/directory.py` to read one, by `convert.py` for the config.json of a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.files import open_weights, positive_number, whole_number
from tirazh.model.checkpoints.tensors import Contents, LazyTensor, StoredTensor, whole
from tirazh.model.config import ModelConfig, SparsePattern, expected_shapes


def open_native(folder: Path, values: Mapping[str, Any]) -> Contents:
    """Plans for a directory of ours whose config.json holds `values`. Raises CheckpointError."""
    config = _read_config(values, folder / "config.json")
    stored, files = open_weights(folder)
    return Contents(kind="tirazh", config=config, plans=same_names(config, stored, folder), files=files)


def config_fields(config: ModelConfig) -> dict[str, Any]:
    """A model's numbers by the names that config.json and `RuGPT3Config` have for them."""
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
    """config.json of a directory of ours, as transformers and `open_native` read it."""
    kind = {"model_type": "rugpt3", "architectures": ["RuGPT3ForCausalLM"]}
    return kind | config_fields(config) | {"dtype": dtype}


def check_width(values: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError when the MLP is not four times as wide as the model, the only width ruGPT-3 has."""
    hidden = whole_number(values, "hidden_size", path)
    if values.get("intermediate_size") not in (None, 4 * hidden):
        raise CheckpointError(f"{path}: intermediate_size must be {4 * hidden}, four times hidden_size")


def same_names(config: ModelConfig, stored: Mapping[str, StoredTensor], folder: Path) -> dict[str, LazyTensor]:
    """Plans for files that hold our tensors under our names. Raises CheckpointError when some are missing."""
    missing = [name for name in expected_shapes(config) if name not in stored]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{folder} has no tensor {missing[0]}{more}, though config.json asks for it")
    if f"model.layers.{config.num_layers}.input_layernorm.weight" in stored:
        raise CheckpointError(f"{folder} holds more layers than the {config.num_layers} that config.json says")
    return {name: whole([stored[name]]) for name in expected_shapes(config)}


def _read_config(values: Mapping[str, Any], path: Path) -> ModelConfig:
    pattern = values.get("sparse_pattern")
    if not isinstance(pattern, dict | None):
        raise CheckpointError(f"{path}: sparse_pattern must be a JSON object, not {pattern!r}")
    if values.get("sparse_mode") != "none" and pattern is None:
        raise CheckpointError(f"{path}: sparse_pattern is missing, though sparse_mode is {values.get('sparse_mode')!r}")
    check_width(values, path)
    sizes = ("hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings")
    try:
        return ModelConfig(
            num_layers=whole_number(values, "num_hidden_layers", path),
            **{name: whole_number(values, name, path) for name in sizes},
            sparse_mode=values.get("sparse_mode"),  # type: ignore[arg-type]  # checked by ModelConfig
            sparse_pattern=SparsePattern(**(pattern or {})),
            layout_groups=whole_number({"sparse_layout_groups": 1} | dict(values), "sparse_layout_groups", path),
            tie_word_embeddings=bool(values.get("tie_word_embeddings", True)),
            layer_norm_eps=positive_number(values, "layer_norm_eps", 1e-5, path),
        )
    except TypeError as error:
        raise CheckpointError(f"{path}: sparse_pattern does not fit ({error})") from error
