"""A model directory of any supported format, as a configuration, a fingerprint and named tensors.

`open_checkpoint` detects the format and leaves reading to that format's module. Opening reads
headers only, and imports torch for torch pickles alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tirazh.errors import CheckpointError, did_you_mean
from tirazh.model.checkpoints.contents import Contents, ForeignModel
from tirazh.model.checkpoints.declared import check_config, refuse_adapter
from tirazh.model.checkpoints.files import has_weights, others_found, read_json
from tirazh.model.checkpoints.gpt2 import is_plain_gpt2, open_gpt2
from tirazh.model.checkpoints.hugging_face import check_foreign, open_transformers
from tirazh.model.checkpoints.native import open_native
from tirazh.model.checkpoints.port import open_port
from tirazh.model.checkpoints.rank_files import find_rank_files
from tirazh.model.checkpoints.rugpts import open_rugpts
from tirazh.model.checkpoints.settings import resolve
from tirazh.model.checkpoints.tensors import LazyTensor, check_tensors
from tirazh.model.config import ModelConfig, ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EMBEDDED_DIR", "Checkpoint", "ModelSummary", "describe", "open_checkpoint", "resolve_model"]

EMBEDDED_DIR = str(Path(__file__).resolve().parent.parent / "embedded")
_SAMPLE_BYTES = 1 << 20
_NO_SETTINGS = ModelSettings()
_OPENERS: dict[str, Callable[[Path, dict[str, Any]], Contents]] = {
    "rugpt3": open_native,
    "rugpt3xl": open_port,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSummary:
    """What planning a job needs to know about a model.

    `config` is None for a model that is not a ruGPT-3 (kind "transformers"). `weight_bytes` is the
    size of the tensors as stored. `positions` (the longest sequence, in tokens) and
    `num_attention_heads` are None when the config.json of such a model does not give them. `foreign`
    holds the values of such a model's config.json. `notices` are sentences for the user about what the
    directory holds besides the model.
    """

    config: ModelConfig | None
    kind: str
    fingerprint: str
    tokenizer_dir: str | None
    weight_bytes: int
    positions: int | None
    num_attention_heads: int | None
    notices: tuple[str, ...] = ()
    foreign: ForeignModel | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An open model directory.

    `kind` is "rugpts", "megatron", "gpt2", "port", "tirazh" or "transformers".
    """

    path: str
    kind: str
    model: ModelConfig | ForeignModel
    tensors: Mapping[str, LazyTensor]
    files: tuple[Path, ...]
    tokenizer_dir: str | None
    notices: tuple[str, ...] = ()

    @property
    def config(self) -> ModelConfig | None:
        """None for kind "transformers", which no ModelConfig describes."""
        return self.model if isinstance(self.model, ModelConfig) else None

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits of the config and of every weight file: its name, size, first and last MiB."""
        digest = hashlib.sha256(json.dumps(self.model.to_dict(), sort_keys=True).encode())
        for file in self.files:
            digest.update(f"\n{file.name} {file.stat().st_size} ".encode() + _ends(file))
        return digest.hexdigest()[:16]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors as stored; of a foreign model, bytes of its weight files."""
        if self.config is None:
            return sum(file.stat().st_size for file in self.files)
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    def names(self) -> list[str]:
        """Return tirazh's names of the tensors (`lm_head.weight` only when it is not tied)."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """Return the stored dtype by torch's name, without `torch.`: "float16"."""
        return self.tensors[name].dtype

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Read one tensor, or only its `start:stop` along `dim`, in its stored dtype on the CPU.

        The result may share memory with the file: copy it before the file is replaced.
        """
        return self.tensors[name].read(dim, start, stop)


def resolve_model(name: str) -> str:
    """Return the directory of a model: "embedded" is the model shipped with tirazh, others are paths."""
    if "://" in name:  # left unchanged, so that the error message can quote it
        return name
    return EMBEDDED_DIR if name == "embedded" else os.path.expanduser(name)


def describe(path: str, settings: ModelSettings = _NO_SETTINGS) -> ModelSummary:
    """Summarise a model without reading its weights, and check that all of them are there.

    Imports torch and transformers for a model that is not a ruGPT-3, and torch alone where copies of
    tensors must be compared. Raises CheckpointError.
    """
    checkpoint = open_checkpoint(path, settings)
    notices = checkpoint.notices
    if checkpoint.config is None:
        notices += check_foreign(checkpoint.path)
    return ModelSummary(
        config=checkpoint.config,
        kind=checkpoint.kind,
        fingerprint=checkpoint.fingerprint,
        tokenizer_dir=checkpoint.tokenizer_dir,
        weight_bytes=checkpoint.weight_bytes,
        positions=checkpoint.model.max_position_embeddings,
        num_attention_heads=checkpoint.model.num_attention_heads,
        notices=notices,
        foreign=checkpoint.model if isinstance(checkpoint.model, ForeignModel) else None,
    )


def open_checkpoint(path: str, settings: ModelSettings = _NO_SETTINGS) -> Checkpoint:
    """Open a model directory and check that it is complete.

    Raises CheckpointError with one sentence otherwise.
    """
    try:
        folder = _existing_folder(resolve_model(path))
        contents = _open(folder)
        model = resolve(settings, contents)
        tensors = contents.tensors(model)
    except PermissionError as error:
        raise CheckpointError(f"{error.filename} may not be read by this user; change its permissions") from error
    except OSError as error:
        raise CheckpointError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    if isinstance(model, ModelConfig):
        check_tensors(tensors, model)
    return Checkpoint(
        path=str(folder),
        kind=contents.kind,
        model=model,
        tensors=tensors,
        files=contents.files,
        tokenizer_dir=_tokenizer_dir(folder, settings),
        notices=contents.notices,
    )


def _open(folder: Path) -> Contents:
    refuse_adapter(folder)
    has_config = (folder / "config.json").is_file()
    # Weights under Hugging Face's names win: a converted model may lie beside the original's ranks.
    ranks = None if has_config and has_weights(folder) else find_rank_files(folder)
    if ranks is not None:
        return open_rugpts(folder, ranks)
    if not has_config:
        raise CheckpointError(_nothing_found(folder))
    values = read_json(folder / "config.json")
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(f"{folder / 'config.json'} has no model_type, so it does not say what the model is")
    # The type becomes a part of a path when transformers' folders are searched.
    if not re.fullmatch(r"[\w.+-]{1,100}", model_type, re.ASCII):
        raise CheckpointError(f"{folder / 'config.json'}: {model_type[:40]!r} is not a model_type")
    check_config(values, folder / "config.json")
    opener = open_gpt2 if is_plain_gpt2(values) else _OPENERS.get(model_type, open_transformers)
    return _naming_config(folder, opener, values)


def _naming_config(
    folder: Path, opener: Callable[[Path, dict[str, Any]], Contents], values: dict[str, Any]
) -> Contents:
    """Open the directory, and make errors about the values of its config.json name that file."""
    try:
        return opener(folder, values)
    except CheckpointError as error:
        if str(folder) in str(error):
            raise
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from None


def _existing_folder(path: str) -> Path:
    folder = Path(path)
    if "://" in path:
        raise CheckpointError(f"{path} is not a local directory; copy the model to a disk that every machine sees")
    if folder.is_file():
        what = "a GGUF file of llama.cpp, which is not read" if folder.suffix == ".gguf" else "a file"
        raise CheckpointError(f"{folder} is {what}; give the directory that holds the checkpoint")
    if not folder.is_dir():
        siblings = [child.name for child in folder.parent.iterdir()] if folder.parent.is_dir() else []
        hint = did_you_mean(folder.name, siblings)
        raise CheckpointError(f"no model directory {folder}{hint}; models are read from disk, never downloaded")
    return folder


def _nothing_found(folder: Path) -> str:
    if any(folder.glob("**/zero_pp_rank_*_model_states.pt")):
        return f"{folder} holds ZeRO-3 shards; merge them first with the zero_to_fp32.py that DeepSpeed puts there"
    if (folder / "adapter/adapter_config.json").is_file():
        return (
            f"{folder} holds a LoRA adapter without its model (--save adapter); train with --save merged or both, or "
            "merge it with peft"
        )
    return (
        f"no checkpoint in {folder}; looked for config.json with safetensors or .bin weights, "
        f"latest_checkpointed_iteration.txt, mp_rank_00_model_states.pt and mp_rank_00/model_optim_rng.pt"
        f"{others_found(folder)}"
    )


def _tokenizer_dir(folder: Path, settings: ModelSettings) -> str | None:
    if settings.tokenizer is not None:
        return str(Path(settings.tokenizer).expanduser())
    has_bpe = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    return str(folder) if has_bpe or (folder / "tokenizer.json").is_file() else None


def _ends(file: Path) -> bytes:
    """Return the SHA-256 of the first and the last MiB: cheap for 52 GB, and any training step changes it."""
    with file.open("rb") as stream:
        digest = hashlib.sha256(stream.read(_SAMPLE_BYTES))
        stream.seek(max(file.stat().st_size - _SAMPLE_BYTES, 0))
        digest.update(stream.read(_SAMPLE_BYTES))
    return digest.digest()
