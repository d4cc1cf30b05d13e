"""A model directory, whatever wrote it, as one thing: a config, a fingerprint, and tensors by our names.

`open_checkpoint` tells the kinds apart and leaves each to its `checkpoint_<kind>.py`. Opening reads headers only, and
imports torch only for torch pickles. Called by `load.py`, `convert.py`, the ranks of a replica, and (for `describe`)
by the pipeline when it plans a job.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tirazh.errors import CheckpointError, did_you_mean
from tirazh.model.checkpoints.files import has_weights, read_json
from tirazh.model.checkpoints.gpt2 import is_plain_gpt2, open_gpt2
from tirazh.model.checkpoints.hugging_face import open_transformers
from tirazh.model.checkpoints.native import open_native
from tirazh.model.checkpoints.port import open_port
from tirazh.model.checkpoints.rank_files import find_rank_files
from tirazh.model.checkpoints.rugpts import open_rugpts
from tirazh.model.checkpoints.settings import check_flags, refuse_contradictions
from tirazh.model.checkpoints.tensors import Contents, check_plans
from tirazh.model.config import ModelConfig, ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EMBEDDED_DIR", "Checkpoint", "ModelSummary", "describe", "open_checkpoint", "resolve_model"]

EMBEDDED_DIR = str(Path(__file__).resolve().parent.parent / "embedded")
_SAMPLE_BYTES = 1 << 20
_NO_FLAGS = ModelSettings()
_DESCRIBED_KINDS: dict[str, Callable[[Path, dict[str, Any]], Contents]] = {
    "rugpt3": open_native,
    "rugpt3xl": open_port,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSummary:
    """What planning a job needs to know of a model. `weight_bytes` is the size of its tensors as they are stored;
    `config` is None for a model that is not a ruGPT-3 (kind "transformers")."""

    config: ModelConfig | None
    kind: str
    fingerprint: str
    tokenizer_dir: str | None
    weight_bytes: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An open model directory. `kind` is "rugpts", "megatron", "gpt2", "port", "tirazh" or "transformers"."""

    path: str
    contents: Contents
    tokenizer_dir: str | None

    @property
    def kind(self) -> str:
        return self.contents.kind

    @property
    def config(self) -> ModelConfig | None:
        """None for kind "transformers": nothing of ours describes such a model."""
        return self.contents.config

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits of config, file names, sizes, and the first and last MiB of every weight file."""
        config = self.contents.config
        text = self.contents.config_text if config is None else json.dumps(config.to_dict(), sort_keys=True)
        digest = hashlib.sha256(text.encode())
        for file in self.contents.files:
            digest.update(f"\n{file.name} {file.stat().st_size} ".encode() + _ends(file))
        return digest.hexdigest()[:16]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors together, as stored."""
        if self.contents.config is None:
            return sum(file.stat().st_size for file in self.contents.files)
        return sum(plan.num_bytes for plan in self.contents.plans.values())

    def names(self) -> list[str]:
        """Our names of the tensors (`lm_head.weight` only when it is not tied)."""
        return list(self.contents.plans)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.contents.plans[name].shape

    def dtype(self, name: str) -> str:
        """The stored dtype as torch spells it, without `torch.`: "float16"."""
        return self.contents.plans[name].dtype

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """One tensor, or its `start:stop` along `dim`, in its stored dtype on the CPU; only that slice is read.

        The result may share memory with the file: copy it before the file is replaced.
        """
        return self.contents.plans[name].read(dim, start, stop)


def resolve_model(name: str) -> str:
    """The directory a model's name means: "embedded" is the model that comes with tirazh, the rest are paths."""
    if "://" in name:  # left as it is, so that the refusal can name it
        return name
    return EMBEDDED_DIR if name == "embedded" else os.path.expanduser(name)


def describe(path: str, flags: ModelSettings = _NO_FLAGS) -> ModelSummary:
    """What a model is, without its weights; imports torch for torch pickles only. Raises CheckpointError."""
    checkpoint = open_checkpoint(path, flags)
    return ModelSummary(
        config=checkpoint.config,
        kind=checkpoint.kind,
        fingerprint=checkpoint.fingerprint,
        tokenizer_dir=checkpoint.tokenizer_dir,
        weight_bytes=checkpoint.weight_bytes,
    )


def open_checkpoint(path: str, flags: ModelSettings = _NO_FLAGS) -> Checkpoint:
    """Open a model directory and check that it is whole. Raises CheckpointError with one sentence otherwise."""
    check_flags(flags)
    try:
        folder = _existing_folder(resolve_model(path))
        contents = _open(folder, flags)
    except PermissionError as error:
        raise CheckpointError(f"{error.filename} may not be read by this user; change its permissions") from error
    except OSError as error:
        raise CheckpointError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    if contents.config is not None:
        check_plans(contents.plans, contents.config)
    return Checkpoint(path=str(folder), contents=contents, tokenizer_dir=_tokenizer_dir(folder, flags))


def _open(folder: Path, flags: ModelSettings) -> Contents:
    ranks = None if has_weights(folder) else find_rank_files(folder)
    if ranks is not None:
        return open_rugpts(folder, ranks, flags)
    if not (folder / "config.json").is_file():
        raise CheckpointError(_nothing_found(folder))
    values = read_json(folder / "config.json")
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(f"{folder / 'config.json'} has no model_type, so it does not say what the model is")
    if not re.fullmatch(r"[\w.+-]{1,100}", model_type, re.ASCII):
        raise CheckpointError(f"{folder / 'config.json'}: {model_type[:40]!r} is no model_type")
    opener = open_gpt2 if is_plain_gpt2(values) else _DESCRIBED_KINDS.get(model_type)
    if opener is None:
        return open_transformers(folder, values, flags)
    contents = _naming(folder, opener, values)
    if contents.config is not None:
        refuse_contradictions(contents.config, flags, folder)
    return contents


def _naming(folder: Path, opener: Callable[[Path, dict[str, Any]], Contents], values: dict[str, Any]) -> Contents:
    """Open the directory; errors about the numbers of its config.json are made to name it."""
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
        raise CheckpointError(f"{folder} is a file; give the directory that holds the checkpoint")
    if not folder.is_dir():
        siblings = [child.name for child in folder.parent.iterdir()] if folder.parent.is_dir() else []
        hint = did_you_mean(folder.name, siblings)
        raise CheckpointError(f"no model directory {folder}{hint}; models are read from disk, never downloaded")
    return folder


def _nothing_found(folder: Path) -> str:
    if any(folder.glob("**/zero_pp_rank_*_model_states.pt")):
        return f"{folder} holds ZeRO-3 shards; join them first with the zero_to_fp32.py that DeepSpeed puts beside them"
    return (
        f"no checkpoint in {folder}; looked for config.json with safetensors or .bin weights, "
        "latest_checkpointed_iteration.txt, mp_rank_00_model_states.pt and mp_rank_00/model_optim_rng.pt"
    )


def _tokenizer_dir(folder: Path, flags: ModelSettings) -> str | None:
    if flags.tokenizer is not None:
        return str(Path(flags.tokenizer).expanduser())
    has_bpe = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    return str(folder) if has_bpe or (folder / "tokenizer.json").is_file() else None


def _ends(file: Path) -> bytes:
    """SHA-256 of the first and the last MiB: cheap for 52 GB, and changed by any new training step."""
    with file.open("rb") as stream:
        digest = hashlib.sha256(stream.read(_SAMPLE_BYTES))
        stream.seek(max(file.stat().st_size - _SAMPLE_BYTES, 0))
        digest.update(stream.read(_SAMPLE_BYTES))
    return digest.digest()
