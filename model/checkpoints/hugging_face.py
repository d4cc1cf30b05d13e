"""Any other causal language model in a Hugging Face directory: run as transformers runs it.

Nothing of ours describes such a model, so its config is None, its tensors keep their names, and `load.py` hands the
directory to transformers (never with remote code). Called by `checkpoints/directory.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.files import open_weights
from tirazh.model.checkpoints.tensors import Contents, LazyTensor, TensorSlice
from tirazh.model.config import ModelSettings


def open_transformers(folder: Path, values: Mapping[str, Any], flags: ModelSettings) -> Contents:
    """Plans for the directory of a model that is not a ruGPT-3. Raises CheckpointError."""
    said = {
        "--sparse-mode": None if flags.sparse_mode == "none" else flags.sparse_mode,
        "--num-attention-heads": flags.num_attention_heads,
        "--fix-sparsity-layout": flags.fix_sparsity_layout,
        "--deepspeed-config": flags.deepspeed_config,
        "--preset": flags.preset,
    }
    for flag, value in said.items():
        if value is not None:
            raise CheckpointError(
                f"{folder} is a {values['model_type']} model, to which {flag} {value} cannot be applied; leave it out"
            )
    if values.get("auto_map") and not _is_in_transformers(values["model_type"]):
        raise CheckpointError(
            f"{folder} brings code of its own for its model_type {values['model_type']} (auto_map in config.json), and "
            "transformers has none; code of a model directory is never run"
        )
    stored, files = open_weights(folder)
    plans = {
        name: LazyTensor(pieces=(TensorSlice(tensor=tensor, start=0, stop=tensor.shape[0]),))
        for name, tensor in stored.items()
        if tensor.shape
    }
    text = json.dumps(values, sort_keys=True)
    return Contents(kind="transformers", config=None, plans=plans, files=files, config_text=text)


def _is_in_transformers(model_type: str) -> bool:
    """Whether the library has a folder for such models: looked up, not imported, which would take seconds."""
    spec = find_spec("transformers")
    places = spec.submodule_search_locations if spec is not None else None
    return any((Path(place) / "models" / model_type.replace("-", "_")).is_dir() for place in places or ())
