"""What config.json and the files beside it say about a model, apart from its sizes.

A directory of another task, of quantised weights or of an adapter is refused by name: it would load and
give other answers. Code that a directory brings along is never run, and named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError

_DTYPES = ("float32", "float16", "bfloat16", "float64")
_TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh")
# A bare model has no head of its own, and a causal head is added to it from its embedding.
# A ForConditionalGeneration is an encoder-decoder, which says so itself, or may contain a decoder.
_CAUSAL = re.compile(r"\w*(ForCausalLM|LMHeadModel|Model|ForConditionalGeneration)")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_QUANTIZATION_KEYS = ("quantization_config", "compression_config")


def refuse_adapter(folder: Path) -> None:
    """Raise CheckpointError when the directory holds an adapter of peft, alone or beside a model."""
    found = next((name for name in _ADAPTER_FILES if (folder / name).exists()), None)
    if found is not None:
        raise CheckpointError(
            f"{folder} holds an adapter ({found}), which must be merged into its base model first: "
            "peft.AutoPeftModelForCausalLM.from_pretrained(DIRECTORY).merge_and_unload().save_pretrained(NEW_DIRECTORY)"
        )


def check_config(values: Mapping[str, Any], path: Path) -> None:
    """Check what config.json says about task, weights and dtype.

    Raises CheckpointError for a model that is not a plain causal language model.
    """
    names = values.get("architectures")
    for name in names if isinstance(names, list) else ():
        if not isinstance(name, str) or not _CAUSAL.fullmatch(name):
            raise CheckpointError(
                f"{path} says that the model is a {str(name)[:80]}, which is no causal language model; give a model "
                "that was saved with its language-model head"
            )
    if values.get("is_encoder_decoder"):
        raise CheckpointError(f"{path} describes an encoder-decoder; only decoders (causal language models) can be run")
    for key in _QUANTIZATION_KEYS:
        if values.get(key):
            raise CheckpointError(
                f"{path} has a {key} ({_method(values[key])}); quantised models are not supported, give the model in "
                "float16, bfloat16 or float32"
            )
    if values.get("transformers_weights"):
        raise CheckpointError(f"{path} names a file of weights by transformers_weights; rename it to model.safetensors")
    for key in ("dtype", "torch_dtype"):
        dtype = values.get(key)
        if dtype is not None and str(dtype).removeprefix("torch.") not in (*_DTYPES, "auto"):
            raise CheckpointError(f"{path} says {key} {str(dtype)[:40]!r}; weights must be one of {', '.join(_DTYPES)}")
    read_flag(values, "tie_word_embeddings", default=True, path=path)


def notice_code(values: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return a notice when config.json names code of the directory, though transformers has the model itself."""
    if not values.get("auto_map"):
        return ()
    return (f"{path} names code of its own (auto_map), which is never run; the model is read as model_type says",)


def read_flag(values: Mapping[str, Any], key: str, *, default: bool, path: Path) -> bool:
    """Return `values[key]`, true or false, or `default` when it is missing. Raises CheckpointError."""
    value = values.get(key)
    if not isinstance(value, bool | None):
        raise CheckpointError(f"{path}: {key} must be true or false, but it is {str(value)[:40]!r}")
    return default if value is None else value


def is_tanh_gelu(name: object) -> bool:
    """Return whether an activation is GELU in its tanh form, by transformers' names."""
    return name in _TANH_GELUS


def check_activation(values: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError when config.json names another activation than a ruGPT-3 has."""
    for key in ("hidden_act", "activation_function"):
        if values.get(key) is not None and not is_tanh_gelu(values[key]):
            raise CheckpointError(
                f"{path}: {key} is {str(values[key])[:40]!r}, but a ruGPT-3 has {_TANH_GELUS[0]}; correct it if it is "
                "wrong, no other activation can be run"
            )


def refuse_sparsity(values: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError when a model whose kind is dense says that it is sparse."""
    if values.get("sparse_mode") not in (None, "none"):
        raise CheckpointError(
            f"{path} says sparse_mode {str(values['sparse_mode'])[:40]!r}, but a model_type of {values['model_type']} "
            "is dense and would give far worse text; convert the original checkpoint with `tirazh convert`"
        )


def _method(quantization: Any) -> str:
    found = quantization.get("quant_method") if isinstance(quantization, dict) else None
    return str(found)[:40] if found else "of an unknown method"
