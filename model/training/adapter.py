"""Writes LoRA matrices of a checkpoint as an adapter in peft's format.

`PeftModel.from_pretrained(base, directory)` loads it onto the model that transformers opens from the base's
directory. A base in GPT-2's format has one fused layer for q, k and v: its adapter has the rows of all their
A below each other, and their B as blocks of a diagonal, which is the same sum. Needs no peft.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import Checkpoint
from tirazh.model.checkpoints.gpt2 import LINEARS
from tirazh.model.checkpoints.writer import TensorSource, write_safetensors
from tirazh.model.config import ModelConfig
from tirazh.model.convert import write_json
from tirazh.model.training.checkpoint import TrainingCheckpoint
from tirazh.model.training.config import LoraSettings

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "base_model.model."
_QKV = ("q_proj", "k_proj", "v_proj")
_FUSED = "attn.c_attn"
_GPT2 = {ours.rpartition(".")[2]: theirs for ours, theirs in LINEARS.items()}  # {"o_proj": "attn.c_proj", ...}


def write_adapter(folder: Path, base: Checkpoint, trained: TrainingCheckpoint, lora: LoraSettings) -> None:
    """Write `adapter_config.json` (last) and `adapter_model.safetensors`, in float32, to the directory `folder`.

    Raises CheckpointError when the checkpoint holds no adapter of this model.
    """
    assert base.config is not None
    sources = list(_gpt2_sources(base.config, trained, lora) if base.kind == "gpt2" else _own_sources(trained))
    if not sources:
        raise CheckpointError(f"{trained.folder} holds no LoRA adapter of the model in {base.path}")
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "adapter_model.safetensors", sources, on_bytes=lambda count: None)
    write_json(folder / "adapter_config.json", _config(base, lora))


def _config(base: Checkpoint, lora: LoraSettings) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.path,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        **(
            _gpt2_modules(lora)
            if base.kind == "gpt2"
            else {"target_modules": list(lora.targets), "fan_in_fan_out": False}
        ),
    }


def _gpt2_modules(lora: LoraSettings) -> Mapping[str, Any]:
    """Return the names of GPT-2's layers; the fused one has the rank of its parts together, and the same scale."""
    parts = len(_fused_parts(lora))
    names = [_GPT2[name] for name in lora.targets if name in _GPT2]
    if not parts:
        return {"target_modules": names, "fan_in_fan_out": True}
    return {
        "target_modules": [_FUSED, *names],
        "fan_in_fan_out": True,  # Conv1D stores (inputs, outputs)
        "rank_pattern": {_FUSED: parts * lora.rank},
        "alpha_pattern": {_FUSED: parts * lora.alpha},
    }


def _fused_parts(lora: LoraSettings) -> list[str]:
    return [name for name in _QKV if name in lora.targets]


def _own_sources(trained: TrainingCheckpoint) -> Iterator[TensorSource]:
    for name, shape in trained.shapes().items():
        if ".lora_" in name:
            stored = _PREFIX + name.replace(".default.weight", ".weight")
            yield TensorSource(name=stored, shape=shape, dtype="float32", read_rows=partial(trained.weight_rows, name))


def _gpt2_sources(config: ModelConfig, trained: TrainingCheckpoint, lora: LoraSettings) -> Iterator[TensorSource]:
    shapes = trained.shapes()

    def source(name: str, tensor: Tensor) -> TensorSource:
        shape = tuple(tensor.shape)
        return TensorSource(name=name, shape=shape, dtype="float32", read_rows=lambda start, stop: tensor[start:stop])

    for layer in range(config.num_layers):
        ours, theirs = f"model.layers.{layer}", f"{_PREFIX}transformer.h.{layer}"
        for own, original in LINEARS.items():
            stem = f"{ours}.{own}.lora_"
            if f"{stem}A.default.weight" in shapes:
                for letter in "AB":
                    yield source(f"{theirs}.{original}.lora_{letter}.weight", _whole(trained, f"{stem}{letter}"))
        parts = _fused_parts(lora)
        if parts and f"{ours}.self_attn.{parts[0]}.lora_A.default.weight" in shapes:
            down, up = _fused(trained, f"{ours}.self_attn", parts, config.hidden_size)
            yield source(f"{theirs}.{_FUSED}.lora_A.weight", down)
            yield source(f"{theirs}.{_FUSED}.lora_B.weight", up)


def _fused(trained: TrainingCheckpoint, prefix: str, parts: list[str], hidden: int) -> tuple[Tensor, Tensor]:
    """Return A, [parts x rank, inputs], and B, [3 x hidden, parts x rank], of the fused layer."""
    import torch

    down = torch.cat([_whole(trained, f"{prefix}.{name}.lora_A") for name in parts])
    up = torch.zeros(3 * hidden, down.shape[0])
    rank = down.shape[0] // len(parts)
    for number, name in enumerate(parts):
        row = _QKV.index(name) * hidden
        up[row : row + hidden, number * rank : (number + 1) * rank] = _whole(trained, f"{prefix}.{name}.lora_B")
    return down, up


def _whole(trained: TrainingCheckpoint, stem: str) -> Tensor:
    name = f"{stem}.default.weight"
    return trained.weight_rows(name, 0, trained.shapes()[name][0])
