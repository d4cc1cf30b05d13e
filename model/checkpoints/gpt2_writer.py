"""A dense ruGPT-3 under the names of transformers' GPT2LMHeadModel: the reverse of `gpt2.py`.

Every program that knows GPT-2 opens such a directory, without tirazh. The linear layers become Conv1D:
transposed, with q, k and v fused. They are read in columns, so that no whole tensor is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from tirazh.model.checkpoints.gpt2 import LINEARS, NORMS
from tirazh.model.checkpoints.heads import HEAD
from tirazh.model.checkpoints.writer import TensorSource
from tirazh.model.config import ModelConfig, expected_shapes

if TYPE_CHECKING:
    from torch import Tensor

# `read(name, dim, start, stop)` returns `start:stop` of a weight along `dim`; the name is tirazh's.
ReadPart = Callable[[str, int, int, int], "Tensor"]
_WHOLE = {"embed_tokens": "wte", "embed_positions": "wpe", "norm": "ln_f"}


def is_gpt2(config: ModelConfig) -> bool:
    """Return whether GPT-2 computes the same: no layer of the model is sparse."""
    return not any(config.is_sparse_layer(layer) for layer in range(config.num_layers))


def gpt2_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the config.json of transformers' GPT-2, without token ids."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.max_position_embeddings,
        "n_ctx": config.max_position_embeddings,  # read by converters that are older than n_positions
        "n_embd": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": config.num_attention_heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.layer_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "dtype": dtype,
    }


def gpt2_sources(config: ModelConfig, read: ReadPart, dtype_of: Callable[[str], str]) -> list[TensorSource]:
    """Return the tensors of a dense model under GPT-2's names.

    `dtype_of` returns the dtype in which a weight is to be written, by tirazh's name.
    """
    return list(_sources(config, read, dtype_of))


def _sources(config: ModelConfig, read: ReadPart, dtype_of: Callable[[str], str]) -> Iterator[TensorSource]:
    shapes = expected_shapes(config)

    def source(name: str, ours: list[str]) -> TensorSource:
        dtypes = {dtype_of(each) for each in ours}
        dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
        rows, *columns = shapes[ours[0]]
        is_linear = bool(columns) and ours[0].startswith("model.layers.")
        if is_linear:
            return TensorSource(
                name=name,
                shape=(columns[0], rows * len(ours)),
                dtype=dtype,
                read_rows=partial(_transposed_rows, read, ours),
            )
        joined = (rows * len(ours), *columns)
        return TensorSource(name=name, shape=joined, dtype=dtype, read_rows=partial(_joined_rows, read, ours, rows))

    for ours, theirs in _WHOLE.items():
        for part in ("weight", "bias") if ours == "norm" else ("weight",):
            yield source(f"transformer.{theirs}.{part}", [f"model.{ours}.{part}"])
    for layer in range(config.num_layers):
        prefix, target = f"model.layers.{layer}", f"transformer.h.{layer}"
        for part in ("weight", "bias"):
            yield source(f"{target}.attn.c_attn.{part}", [f"{prefix}.self_attn.{x}_proj.{part}" for x in "qkv"])
            for ours, theirs in (NORMS | LINEARS).items():
                yield source(f"{target}.{theirs}.{part}", [f"{prefix}.{ours}.{part}"])
    if not config.tie_word_embeddings:
        yield source(HEAD, [HEAD])


def _transposed_rows(read: ReadPart, names: list[str], start: int, stop: int) -> Tensor:
    """Return rows of the transposed weights, beside each other: columns of the weights."""
    import torch

    return torch.cat([read(name, 1, start, stop).T for name in names], dim=1)


def _joined_rows(read: ReadPart, names: list[str], rows: int, start: int, stop: int) -> Tensor:
    """Return rows of weights of `rows` rows each, below each other."""
    import torch

    spans = [(max(start - index * rows, 0), min(stop - index * rows, rows)) for index in range(len(names))]
    return torch.cat([read(name, 0, *span) for name, span in zip(names, spans, strict=True) if span[0] < span[1]])
