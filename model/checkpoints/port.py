"""Directories of the community's Hugging Face port of ruGPT-3 XL (model_type `rugpt3xl`).

Its tensors have tirazh's names; the keys of config.json differ, and the output embedding may be its
own. The Python files that its config.json names are neither needed nor run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.model.checkpoints.contents import Contents
from tirazh.model.checkpoints.files import open_weights, positive_number, whole_number
from tirazh.model.checkpoints.native import check_width, same_names
from tirazh.model.config import ModelConfig, SparsePattern, checked_sparse_mode


def open_port(folder: Path, values: Mapping[str, Any]) -> Contents:
    """Open a port directory whose config.json holds `values`. Raises CheckpointError."""
    path = folder / "config.json"
    mode = checked_sparse_mode(values.get("sparse_mode"), f"{path}: sparse_mode")
    check_width(values, path)
    config = ModelConfig(
        num_layers=whole_number(values, "num_hidden_layers", path),
        hidden_size=whole_number(values, "hidden_size", path),
        num_attention_heads=whole_number(values, "num_attention_heads", path),
        vocab_size=whole_number(values, "vocab_size", path),
        max_position_embeddings=whole_number(values, "max_position_embeddings", path),
        sparse_mode=mode,
        sparse_pattern=SparsePattern() if mode == "none" else _pattern(values, path),
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        layer_norm_eps=positive_number(values, "layer_norm_eps", 1e-5, path),
    )
    stored, files = open_weights(folder)
    tensors = same_names(config, stored, folder)
    return Contents(kind="port", folder=folder, files=files, description=config, tensors=lambda _: tensors)


def _pattern(values: Mapping[str, Any], path: Path) -> SparsePattern:
    return SparsePattern(
        block_size=whole_number(values, "sparse_block_size", path),
        num_local_blocks=whole_number(values, "sparse_num_local_blocks", path),
        num_global_blocks=whole_number(values, "sparse_num_global_blocks", path),
        num_different_global_patterns=whole_number(values, "sparse_num_different_global_patterns", path),
    )
