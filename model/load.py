"""`load_pretrained`: any supported checkpoint as a module in this process, without Ray or DeepSpeed.

The model is built on the meta device and then filled tensor by tensor, so that loading needs the
memory of the model and one tensor. The ranks of a replica load their shards by `tensor_parallel.py`
instead.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tirazh.errors import RequestError, did_you_mean
from tirazh.model.checkpoints.directory import EMBEDDED_DIR, Checkpoint, open_checkpoint, resolve_model
from tirazh.model.checkpoints.hugging_face import load_foreign
from tirazh.model.config import ModelConfig, ModelSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["EMBEDDED_DIR", "load_pretrained", "resolve_model"]

logger = logging.getLogger(__name__)

_DTYPES = ("float32", "bfloat16", "float16")
_NO_SETTINGS = ModelSettings()


def load_pretrained(
    path: str, *, dtype: str = "float32", device: str = "cpu", settings: ModelSettings = _NO_SETTINGS
) -> nn.Module:
    """Load a model for inference.

    `model(input_ids).logits` maps int64 [batch, length] to `dtype` [batch, length, vocab].

    Args:
        path: a directory of ru-gpts, Megatron, Hugging Face, the community XL port or tirazh; or "embedded".
        dtype: float32, bfloat16 or float16.
        device: as torch names it: "cpu", "cuda", "cuda:1".
        settings: what the checkpoint does not say about itself.

    Raises:
        CheckpointError: the directory cannot be read as a model.
        RequestError: the dtype or device does not exist.
    """
    import torch

    if dtype not in _DTYPES:
        hint = did_you_mean(dtype, _DTYPES)
        raise RequestError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}{hint}")
    target = _device(device)
    checkpoint = open_checkpoint(path, settings)
    for line in checkpoint.notices:
        logger.warning("%s", line)
    as_dtype: torch.dtype = getattr(torch, dtype)
    if checkpoint.config is None:
        return _load_transformers(checkpoint, as_dtype, target)
    return _fill(checkpoint, checkpoint.config, as_dtype, target)


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"device {name!r} does not exist; try cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError("device cuda is not available: this process sees no CUDA GPU; use device cpu")
    return device


def _fill(checkpoint: Checkpoint, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> nn.Module:
    import torch

    from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM

    with torch.device("meta"):
        model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(config, dtype=str(dtype).removeprefix("torch.")))
    # `copy=True`: a tensor that was read may be the mapped file, and must not change when the file
    # does.
    weights = {
        name: checkpoint.read(name).to(device=device, dtype=dtype, copy=True).contiguous()
        for name in checkpoint.names()
    }
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()  # type: ignore[operator]
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    assert not empty, f"the checkpoint does not fill the parameters {empty}"
    network: nn.Module = model.eval()
    return network


def _load_transformers(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> nn.Module:
    return load_foreign(checkpoint.path, dtype).to(device).eval()
