"""Exports a checkpoint of a training run as a model directory for `classify`, `generate` and transformers.

A dense model is written as transformers' GPT-2, a sparse one in tirazh's own format. The tensors are
streamed: memory stays at some megabytes for any model. LoRA matrices are merged into the weights that
they adapt. Imports torch only where tensors are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import Checkpoint
from tirazh.model.checkpoints.gpt2_writer import ReadPart, gpt2_config, gpt2_sources, is_gpt2
from tirazh.model.checkpoints.native import native_config
from tirazh.model.checkpoints.writer import TensorSource
from tirazh.model.config import ModelConfig, expected_shapes
from tirazh.model.convert import Progress, token_ids_of, write_json, write_weights, written_dtype
from tirazh.model.tokenizer import load_tokenizer
from tirazh.model.tokenizer_export import write_tokenizer
from tirazh.model.training.checkpoint import TrainingCheckpoint
from tirazh.model.training.config import LoraSettings

if TYPE_CHECKING:
    from torch import Tensor


def export_model(
    folder: Path,
    base: Checkpoint,
    trained: TrainingCheckpoint,
    *,
    lora: LoraSettings | None,
    dtype: str | None,
    progress: Progress | None = None,
) -> None:
    """Write the trained model to `folder`, in `dtype` or in the stored dtypes of `base`.

    `config.json` is written last; `progress` is called with (bytes written, total bytes). Raises
    CheckpointError when the checkpoint is of another model, has values too large for the dtype, or when
    the tokenizer of `base` cannot be read.
    """
    config = base.config
    assert config is not None
    read = _reader(base, trained, lora)
    sources = _sources(config, read, lambda name: dtype or base.dtype(name))
    written = written_dtype(sources)
    values = gpt2_config(config, written) if is_gpt2(config) else native_config(config, written)
    write_weights(folder, sources, progress=progress)
    tokens = _write_tokenizer(base, config, folder)
    write_json(folder / "generation_config.json", tokens)
    write_json(folder / "config.json", values | tokens)


def _sources(config: ModelConfig, read: ReadPart, dtype_of: Callable[[str], str]) -> list[TensorSource]:
    if is_gpt2(config):
        return gpt2_sources(config, read, dtype_of)
    return [
        TensorSource(name=name, shape=shape, dtype=dtype_of(name), read_rows=partial(read, name, 0))
        for name, shape in expected_shapes(config).items()
    ]


def _write_tokenizer(base: Checkpoint, config: ModelConfig, folder: Path) -> dict[str, Any]:
    """Write the tokenizer's files. Returns the token ids for the files of the model."""
    tokenizer = load_tokenizer(base.tokenizer_dir, base.path)
    assert base.tokenizer_dir is not None
    write_tokenizer(tokenizer, base.tokenizer_dir, folder, positions=config.max_position_embeddings)
    ids = token_ids_of(tokenizer)
    # GPT2Config would fill in 50256, a token that another vocabulary may not have.
    return {"bos_token_id": tokenizer.end_token_id} | ids


def _reader(base: Checkpoint, trained: TrainingCheckpoint, lora: LoraSettings | None) -> ReadPart:
    """Return the reader of the trained weights. Raises CheckpointError for the checkpoint of another model."""
    assert base.config is not None
    found = trained.shapes()
    if lora is not None:
        return _Merged(base, trained, lora, frozenset(found)).part
    if found != expected_shapes(base.config):
        raise CheckpointError(f"{trained.folder} is damaged or of another model; remove it")
    return trained.weight_part


@dataclass(frozen=True, slots=True)
class _Merged:
    """Weights of `base` with the LoRA matrices of a checkpoint merged into them. `names` are those of the matrices."""

    base: Checkpoint
    trained: TrainingCheckpoint
    lora: LoraSettings
    names: frozenset[str]

    def part(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Return `start:stop` along `dim` of a base weight, plus `alpha / rank * B @ A` where LoRA adapted it."""
        part = self.base.read(name, dim, start, stop).float()
        stem = name.removesuffix(".weight")
        # peft's names: A maps the inputs down to the rank, B maps the rank up to the outputs.
        down, up = (f"{stem}.lora_{letter}.default.weight" for letter in "AB")
        if down not in self.names:
            return part
        bounds = [(0, size) for size in self.base.shape(name)]
        bounds[dim] = (start, stop)
        update = self.trained.weight_part(up, 0, *bounds[0]) @ self.trained.weight_part(down, 1, *bounds[1])
        return part + self.lora.alpha / self.lora.rank * update
