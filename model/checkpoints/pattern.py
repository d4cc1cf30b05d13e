"""The sparse pattern of a DeepSpeed JSON: its `sparse_attention` key, mode "fixed".

What another mode or another kind of attention would need is not computed here, so such a file is refused by name.
Called by `checkpoints/settings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError, did_you_mean
from tirazh.model.checkpoints.files import read_json
from tirazh.model.config import SparsePattern

# DeepSpeed's names and its own defaults, which the original model got for every key left out.
_PATTERN_KEYS: dict[str, tuple[str, int | bool]] = {
    "block": ("block_size", 16),
    "num_local_blocks": ("num_local_blocks", 4),
    "num_global_blocks": ("num_global_blocks", 1),
    "num_different_global_patterns": ("num_different_global_patterns", 1),
    "different_layout_per_head": ("different_layout_per_head", False),
}
_ALL_KEYS = ("mode", "attention", "horizontal_global_attention", *_PATTERN_KEYS)


def read_pattern(path: Path) -> SparsePattern | None:
    """`sparse_attention` of a DeepSpeed JSON, None when it has no such key. Raises CheckpointError."""
    values = read_json(path).get("sparse_attention")
    if values is None:
        return None
    where = f"{path}: sparse_attention"
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} must be a JSON object, not {values!r}")
    for key in values:
        if key not in _ALL_KEYS and values.get("mode", "fixed") == "fixed":
            raise CheckpointError(f"{where} has an unknown key {key!r}{did_you_mean(key, _ALL_KEYS)}")
    rules = (
        ("mode", "fixed", "fixed", "the only pattern that works here is 'fixed'"),
        ("attention", "bidirectional", "unidirectional", "only 'unidirectional' works for text generation"),
        ("horizontal_global_attention", False, False, "only false works here"),
    )
    for key, default, needed, rule in rules:
        value = values.get(key, default)
        if value != needed:
            origin = "" if key in values else " by default"
            raise CheckpointError(f"{where}: {key} is {value!r}{origin}; {rule}")
    return _pattern(values, where)


def _pattern(values: Mapping[str, Any], where: str) -> SparsePattern:
    chosen: dict[str, Any] = {}
    for key, (field, default) in _PATTERN_KEYS.items():
        value = values.get(key, default)
        if type(value) is not type(default):
            raise CheckpointError(f"{where}: {key} must be {type(default).__name__}, not {value!r}")
        chosen[field] = value
    try:
        return SparsePattern(**chosen)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
