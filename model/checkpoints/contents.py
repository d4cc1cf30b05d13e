"""What a format's reader finds in a model directory, before the user's settings are applied.

A directory describes its model in one of four ways: completely (`ModelConfig`), completely but for its
sparsity (`UnknownSparsity`), by the shapes of its weights alone (`WeightSizes`), or as a model of another
architecture (`ForeignModel`). `settings.resolve` handles all four.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tirazh.model.architectures import longest_exact_sequence
from tirazh.model.checkpoints.tensors import LazyTensor
from tirazh.model.config import ModelConfig, SparsePattern

_POSITION_KEYS = ("max_position_embeddings", "n_positions")
_HEAD_KEYS = ("num_attention_heads", "n_head")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightSizes:
    """What a ru-gpts or Megatron checkpoint says of the model: the sizes, by the shapes of its weights.

    `num_ranks` is the number of model-parallel ranks it was trained on. `folders` are the
    directories, in order, in which `model_args.json` and `deepspeed_config.json` may be.
    """

    num_layers: int
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    num_ranks: int
    folders: tuple[Path, ...]
    tie_word_embeddings: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class UnknownSparsity:
    """A model whose config.json does not say which of its layers are sparse.

    `config` is right in everything else. `pattern` is the sparse pattern, if config.json gives one.
    """

    config: ModelConfig
    pattern: SparsePattern | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignModel:
    """A model that is not a ruGPT-3, by the values of its config.json."""

    values: Mapping[str, Any]

    @property
    def model_type(self) -> str:
        return str(self.values["model_type"])

    @property
    def max_position_embeddings(self) -> int | None:
        """The longest sequence in tokens that runs exactly; None when config.json does not give it."""
        positions, exact = _first_count(self.values, _POSITION_KEYS), longest_exact_sequence(self.values)
        if exact is None:
            return positions
        return exact.num_tokens if positions is None else min(positions, exact.num_tokens)

    @property
    def num_attention_heads(self) -> int | None:
        """None when config.json does not give it."""
        return _first_count(self.values, _HEAD_KEYS)

    def to_dict(self) -> dict[str, Any]:
        """Return the values of config.json."""
        return dict(self.values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The contents of a model directory. `kind` names the format; `files` hold the weights.

    `tensors` returns the lazy tensors by name for the resolved configuration; it raises
    CheckpointError when one is missing. `notices` are sentences for the user about what the directory
    says besides.
    """

    kind: str
    folder: Path
    files: tuple[Path, ...]
    description: ModelConfig | UnknownSparsity | WeightSizes | ForeignModel
    tensors: Callable[[ModelConfig | ForeignModel], Mapping[str, LazyTensor]]
    notices: tuple[str, ...] = ()


def _first_count(values: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    found = (values.get(key) for key in keys)
    return next(
        (value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), None
    )
