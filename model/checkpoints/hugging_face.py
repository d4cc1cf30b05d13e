"""Any other causal language model in a Hugging Face directory; transformers runs it.

`model/config.py` cannot describe such a model: it has no ModelConfig, its tensors keep their names,
and `load_foreign` hands the directory to transformers (never with remote code). transformers fills
missing weights with random numbers, other ones in every process, and drops those it does not know; here
both are checked, when a job is planned and when its replicas load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tirazh.errors import CheckpointError
from tirazh.model.architectures import check_family
from tirazh.model.checkpoints.contents import Contents, ForeignModel
from tirazh.model.checkpoints.declared import notice_code, refuse_sparsity
from tirazh.model.checkpoints.files import Weights, open_weights
from tirazh.model.checkpoints.tensors import ITEM_SIZES, LazyTensor, TensorSlice
from tirazh.model.checkpoints.unused import check_unused, is_buffer, named

if TYPE_CHECKING:
    import torch
    from torch import nn

_LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


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
    refuse_sparsity(values, folder / "config.json")
    weights = open_weights(folder)
    _check_dtypes(weights)
    for key in _LAYER_COUNTS:  # transformers would build them, one by one
        count = values.get(key)
        if isinstance(count, int) and count > len(weights.stored):
            raise CheckpointError(f"{key} is {str(count)[:40]}, but the weights are {len(weights.stored)} tensors")
    tensors = {
        name: LazyTensor(slices=(TensorSlice(tensor=tensor, start=0, stop=tensor.shape[0]),))
        for name, tensor in weights.stored.items()
        if tensor.shape
    }
    return Contents(
        kind="transformers",
        folder=folder,
        files=weights.files,
        description=ForeignModel(values=values),
        tensors=lambda _: tensors,
        notices=(*weights.notices, *notice_code(values, folder / "config.json")),
    )


def _check_dtypes(weights: Weights) -> None:
    """Raise CheckpointError for a weight of another dtype, which transformers would cast without its scales."""
    for name, tensor in weights.stored.items():
        if tensor.dtype not in ITEM_SIZES and not is_buffer(name):
            raise CheckpointError(
                f"{tensor.file}: tensor {name[:100]} is stored as {tensor.dtype}; weights must be one of "
                f"{', '.join(ITEM_SIZES)} (quantised checkpoints are not supported)"
            )


def load_foreign(path: str, dtype: torch.dtype) -> nn.Module:
    """Load the causal language model of a directory with transformers, on the CPU, without remote code.

    Raises CheckpointError when transformers cannot load it, or when weights are missing, of another
    shape, or stored but not part of the model.
    """
    check_foreign(path)
    return _load(path, dtype=dtype)[0]


def check_foreign(path: str) -> tuple[str, ...]:
    """Check that a directory holds all weights of its model, without reading them.

    Builds the model on the meta device, which imports torch and transformers. Returns the notice about
    weights that the model does not use, if one is due. Raises CheckpointError as `load_foreign` does.
    """
    return _load(path, device_map="meta")[1]


def _load(path: str, **options: Any) -> tuple[nn.Module, tuple[str, ...]]:
    from transformers import AutoModelForCausalLM

    try:
        with _silent_transformers():
            model, found = AutoModelForCausalLM.from_pretrained(
                path,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, with both shapes
                **options,
            )
    except Exception as error:  # the config and the classes that check it may raise anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"transformers cannot load {path} as a causal language model: {reason}") from error
    for name, stored, needed in sorted(found["mismatched_keys"]):
        raise CheckpointError(
            f"{path} holds {name} with the shape {list(stored)}, but config.json requires {list(needed)}; correct "
            "config.json, or copy the model again"
        )
    missing = sorted(found["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{path} has no tensor {named(missing)}, though its {type(model).__name__} requires it; copy it again"
        )
    if found["error_msgs"]:
        raise CheckpointError(f"transformers cannot load {path}: {' '.join(str(found['error_msgs'][0]).split())[:300]}")
    network: nn.Module = model
    return network, check_unused(path, found["unexpected_keys"])


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """Keep transformers' own reports of a load from the terminal: everything in them is said here."""
    from transformers.utils import logging

    before, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if shows_progress:
            logging.enable_progress_bar()


def _is_in_transformers(model_type: str) -> bool:
    """Return whether transformers has a folder for this model type.

    It is not imported: that would take seconds.
    """
    spec = find_spec("transformers")
    folders = spec.submodule_search_locations if spec is not None else None
    return any((Path(folder) / "models" / model_type.replace("-", "_")).is_dir() for folder in folders or ())
