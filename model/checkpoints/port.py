"""Directories of the community's Hugging Face port of ruGPT-3 XL (model_type `rugpt3xl`).

Its tensors have tirazh's names; the keys of config.json differ, and the output embedding may be its
own. The Python files that its config.json names are neither needed nor run. Some copies do not say
which layers are sparse; the user is asked then, because a sparse model that is run dense gives far worse
text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tirazh.model.checkpoints.contents import Contents, UnknownSparsity
from tirazh.model.checkpoints.declared import check_activation, read_flag
from tirazh.model.checkpoints.files import open_weights, positive_number, whole_number
from tirazh.model.checkpoints.native import check_width, same_names
from tirazh.model.config import ModelConfig, SparsePattern, checked_sparse_mode

_PATTERN_KEYS = {
    name: f"sparse_{name}"
    for name in ("block_size", "num_local_blocks", "num_global_blocks", "num_different_global_patterns")
}


def open_port(folder: Path, values: Mapping[str, Any]) -> Contents:
    """Open a port directory whose config.json holds `values`. Raises CheckpointError."""
    path = folder / "config.json"
    stated = values.get("sparse_mode")
    mode = "none" if stated is None else checked_sparse_mode(stated, f"{path}: sparse_mode")
    check_width(values, path)
    check_activation(values, path)
    config = ModelConfig(
        num_layers=whole_number(values, "num_hidden_layers", path),
        hidden_size=whole_number(values, "hidden_size", path),
        num_attention_heads=whole_number(values, "num_attention_heads", path),
        vocab_size=whole_number(values, "vocab_size", path),
        max_position_embeddings=whole_number(values, "max_position_embeddings", path),
        sparse_mode=mode,
        sparse_pattern=SparsePattern() if mode == "none" else _pattern(values, path),
        tie_word_embeddings=read_flag(values, "tie_word_embeddings", default=False, path=path),
        layer_norm_eps=positive_number(values, "layer_norm_eps", 1e-5, path),
    )
    contents = same_names("port", config, open_weights(folder), folder)
    if stated is not None:
        return contents
    assert isinstance(contents.description, ModelConfig)
    pattern = _pattern(values, path) if any(key in values for key in _PATTERN_KEYS.values()) else None
    return replace(contents, description=UnknownSparsity(config=contents.description, pattern=pattern))


def _pattern(values: Mapping[str, Any], path: Path) -> SparsePattern:
    sizes: dict[str, Any] = {name: whole_number(values, key, path) for name, key in _PATTERN_KEYS.items()}
    return SparsePattern(**sizes)
