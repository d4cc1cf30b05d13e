"""The sparse pattern of a DeepSpeed JSON: its `sparse_attention` key, mode "fixed".

Other modes and bidirectional attention are not implemented; a file that uses them is refused with
the key's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError, did_you_mean
from tirazh.model.checkpoints.files import read_json
from tirazh.model.config import SparsePattern

# DeepSpeed's key, our field, and DeepSpeed's default, which the original model got for every
# missing key.
_PATTERN_KEYS: dict[str, tuple[str, int | bool]] = {
    "block": ("block_size", 16),
    "num_local_blocks": ("num_local_blocks", 4),
    "num_global_blocks": ("num_global_blocks", 1),
    "num_different_global_patterns": ("num_different_global_patterns", 1),
    "different_layout_per_head": ("different_layout_per_head", False),
}
_ALL_KEYS = ("mode", "attention", "horizontal_global_attention", *_PATTERN_KEYS)


def read_pattern(path: Path) -> SparsePattern | None:
    """Read `sparse_attention` of a DeepSpeed JSON; None when there is no such key. Raises CheckpointError."""
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
        ("mode", "fixed", "fixed", "the only supported pattern is 'fixed'"),
        ("attention", "bidirectional", "unidirectional", "only 'unidirectional' is supported"),
        ("horizontal_global_attention", False, False, "only false is supported"),
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
