"""Any other causal language model in a Hugging Face directory: run as transformers runs it.

Nothing of ours describes such a model, so its config is None, its tensors keep their names, and `load.py` hands the
directory to transformers (never with remote code). Called by `checkpoint.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoint_files import open_weights
from model.checkpoint_tensors import Contents, Piece, TensorPlan
from model.config import ModelFlags
from model.errors import CheckpointError


def open_transformers(folder: Path, values: Mapping[str, Any], flags: ModelFlags) -> Contents:
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
    stored, files = open_weights(folder)
    plans = {
        name: TensorPlan(pieces=(Piece(tensor=tensor, start=0, stop=tensor.shape[0]),))
        for name, tensor in stored.items()
        if tensor.shape
    }
    text = json.dumps(values, sort_keys=True)
    return Contents(kind="transformers", config=None, plans=plans, files=files, config_text=text)
