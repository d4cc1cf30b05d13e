"""Writes a checkpoint of ruGPT-3 13B's shape and layout with random weights, some megabytes at a time.

The layout is that of ru-gpts with DeepSpeed: float16, one torch pickle for each of four model-parallel ranks. Values
are slices of one block of normal noise, at places that follow from tensor and seed, because thirteen billion fresh
values would take minutes. They are scaled as GPT-2 begins. Some channels of every LayerNorm are many times as large
as the others, as they are in large trained models: these make 8 bits difficult.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tirazh.model.checkpoints.pickle_machine import TensorRef
from tirazh.model.checkpoints.torch_file import open_torch_file

RANKS = 4
_STD = 0.02
_BLOCK = 1 << 25  # values of the noise
_OUTLIERS, _OUTLIER_GAIN = 6, 20.0  # channels of a norm, and how many times as large they are
_SPARSITY = {
    "mode": "fixed", "block": 16, "different_layout_per_head": True, "num_local_blocks": 8, "num_global_blocks": 1,
    "attention": "unidirectional", "horizontal_global_attention": False, "num_different_global_patterns": 8,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class LargeShape:
    """The sizes of a checkpoint; those of ruGPT-3 13B unless others are given."""

    num_layers: int = 40
    hidden_size: int = 5120
    num_heads: int = 40
    vocab_size: int = 50_304  # 50,257 tokens, padded to a multiple of 16 for every rank
    positions: int = 2048

    def rank_tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of one rank's tensors."""
        hidden, part = self.hidden_size, self.hidden_size // RANKS
        yield "word_embeddings.weight", (self.vocab_size // RANKS, hidden)
        yield "position_embeddings.weight", (self.positions, hidden)
        for layer in range(self.num_layers):
            prefix = f"transformer.layers.{layer}."
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield f"{prefix}{norm}.weight", (hidden,)
                yield f"{prefix}{norm}.bias", (hidden,)
            yield f"{prefix}attention.query_key_value.weight", (3 * part, hidden)
            yield f"{prefix}attention.query_key_value.bias", (3 * part,)
            yield f"{prefix}attention.dense.weight", (hidden, part)
            yield f"{prefix}attention.dense.bias", (hidden,)
            yield f"{prefix}mlp.dense_h_to_4h.weight", (4 * part, hidden)
            yield f"{prefix}mlp.dense_h_to_4h.bias", (4 * part,)
            yield f"{prefix}mlp.dense_4h_to_h.weight", (hidden, 4 * part)
            yield f"{prefix}mlp.dense_4h_to_h.bias", (hidden,)
        yield "transformer.final_layernorm.weight", (hidden,)
        yield "transformer.final_layernorm.bias", (hidden,)


def write_checkpoint(folder: Path, shape: LargeShape, *, seed: int = 0) -> None:
    """Write the checkpoint, and beside it what the original training leaves: `model_args.json` and DeepSpeed's JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = _Noise(seed, shape)
    for rank in range(RANKS):
        _write_rank(folder / f"mp_rank_{rank:02d}_model_states.pt", shape, noise, rank)
    arguments = {
        "num_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.num_heads,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.positions,
        "sparse_mode": "alternating",
        "model_parallel_size": RANKS,
    }
    (folder / "model_args.json").write_text(json.dumps(arguments), encoding="utf-8")
    (folder / "deepspeed_config.json").write_text(json.dumps({"sparse_attention": _SPARSITY}), encoding="utf-8")


def _write_rank(path: Path, shape: LargeShape, noise: _Noise, rank: int) -> None:
    """Write the pickle without its values first, then the values where the file has place for them."""
    with FakeTensorMode():
        module = {name: torch.empty(size, dtype=torch.float16) for name, size in shape.rank_tensors()}
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save({"module": module}, path)
    written = open_torch_file(path)
    with path.open("r+b") as file:
        for name, tensor in written.value["module"].items():
            assert isinstance(tensor, TensorRef)
            start, num_bytes = written.spans[tensor.storage.key]
            values = noise.values(name, tuple(tensor.size), rank)
            assert values.numel() * 2 == num_bytes
            file.seek(start)
            file.write(values.numpy().data)


class _Noise:
    """The values of every tensor, by its name and rank."""

    def __init__(self, seed: int, shape: LargeShape) -> None:
        self._seed, self._shape = seed, shape
        generator = torch.Generator().manual_seed(seed)
        self._block = torch.randn(_BLOCK, generator=generator).mul_(_STD).half()
        self._outliers = torch.randperm(shape.hidden_size, generator=generator)[:_OUTLIERS]

    def values(self, name: str, size: tuple[int, ...], rank: int) -> Tensor:
        """float16 values; all ranks have the same of a tensor of which each holds a copy."""
        is_split = name.startswith("word_") or (
            name.endswith("weight") and len(size) == 2 and not name.startswith("position_")
        )
        is_split = is_split or name.endswith(("query_key_value.bias", "dense_h_to_4h.bias"))
        values = self._slice(f"{name} {rank if is_split else 0} {self._seed}", prod(size))
        if "layernorm.weight" in name:
            values = 1 + 5 * values
            values[self._outliers] *= _OUTLIER_GAIN
        elif name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
            values = values * (2 * self._shape.num_layers) ** -0.5
        return values.contiguous()

    def _slice(self, key: str, count: int) -> Tensor:
        start = zlib.crc32(key.encode()) % (_BLOCK // 2)
        end = start + count
        if end <= _BLOCK:
            return self._block[start:end]
        parts = [self._block[start:]]
        while (missing := count - sum(map(len, parts))) > 0:
            parts.append(self._block[:missing])
        return torch.cat(parts)
