"""Any other causal language model in a Hugging Face directory; transformers runs it.

`model/config.py` cannot describe such a model: it has no ModelConfig, its tensors keep their names,
and `model/load.py` hands the directory to transformers (never with remote code).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError
from tirazh.model.architectures import check_family
from tirazh.model.checkpoints.contents import Contents, ForeignModel
from tirazh.model.checkpoints.files import open_weights
from tirazh.model.checkpoints.tensors import LazyTensor, TensorSlice


def open_transformers(folder: Path, values: Mapping[str, Any]) -> Contents:
    """Open the directory of a model that is not a ruGPT-3, whose config.json holds `values`.

    Raises CheckpointError.
    """
    if values.get("auto_map") and not _is_in_transformers(values["model_type"]):
        raise CheckpointError(
            f"{folder} needs code of its own for its model_type {values['model_type']} (auto_map in config.json), "
            "which transformers does not have; code in a model directory is never run, so use another model"
        )
    check_family(values)
    stored, files = open_weights(folder)
    tensors = {
        name: LazyTensor(slices=(TensorSlice(tensor=tensor, start=0, stop=tensor.shape[0]),))
        for name, tensor in stored.items()
        if tensor.shape
    }
    return Contents(
        kind="transformers",
        folder=folder,
        files=files,
        description=ForeignModel(values=values),
        tensors=lambda _: tensors,
    )


def _is_in_transformers(model_type: str) -> bool:
    """Return whether transformers has a folder for this model type.

    It is not imported: that would take seconds.
    """
    spec = find_spec("transformers")
    folders = spec.submodule_search_locations if spec is not None else None
    return any((Path(folder) / "models" / model_type.replace("-", "_")).is_dir() for folder in folders or ())
