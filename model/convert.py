"""Converts any supported checkpoint of a ruGPT-3 to tirazh's safetensors directory.

The tensors are streamed: memory stays at some megabytes however large the model is. `config.json`
is written last, so that an unfinished directory is never taken for a model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError, OutputError, RequestError, did_you_mean
from tirazh.model.checkpoints.directory import Checkpoint, ModelSummary, describe, open_checkpoint
from tirazh.model.checkpoints.native import native_config
from tirazh.model.checkpoints.tensors import ITEM_SIZES
from tirazh.model.checkpoints.writer import PARTIAL, TensorSource, write_safetensors
from tirazh.model.config import ModelSettings, expected_shapes
from tirazh.model.tokenizer import TOKENIZER_FILES, Tokenizer, load_tokenizer

Progress = Callable[[int, int], None]
_NO_SETTINGS = ModelSettings()


def convert(
    source: str,
    target: str,
    *,
    settings: ModelSettings = _NO_SETTINGS,
    dtype: str | None = None,
    max_shard_bytes: int = 2 << 30,
    progress: Progress | None = None,
) -> ModelSummary:
    """Write the model in `source` to the new directory `target`, with its tokenizer if it has one.

    Returns the summary of the new directory, with the notices about `source`.

    Args:
        settings: what the checkpoint does not say about itself.
        dtype: dtype of the new files: float32, float16, bfloat16, float64, or None to keep the stored one.
        max_shard_bytes: largest size of one file; a single tensor may still be larger.
        progress: called with (bytes written, total bytes).

    Raises:
        CheckpointError: the source cannot be read, is not a ruGPT-3, or has values too large for `dtype`.
        OutputError: the target is not empty, or the disk is too small.
        RequestError: there is no such dtype.
    """
    check_dtype(dtype)
    checkpoint = open_checkpoint(source, settings)
    if checkpoint.config is None:
        raise CheckpointError(f"{source} is not a ruGPT-3 and needs no conversion; give it to --model as it is")
    _token_ids(checkpoint)  # a damaged tokenizer is refused before anything is written
    sources = [_source(checkpoint, name, dtype) for name in expected_shapes(checkpoint.config)]
    folder = Path(target).expanduser()
    check_target(folder, sum(tensor.num_bytes for tensor in sources))
    with removed_on_failure(folder):
        write_model(folder, checkpoint, sources, max_shard_bytes=max_shard_bytes, progress=progress)
    return replace(describe(str(folder)), notices=checkpoint.notices)


def check_dtype(dtype: str | None) -> None:
    """Raise RequestError for a dtype that no file can have."""
    if dtype is not None and dtype not in ITEM_SIZES:
        raise RequestError(
            f"--dtype must be one of {', '.join(ITEM_SIZES)}, not {dtype!r}{did_you_mean(dtype, ITEM_SIZES)}"
        )


def write_model(
    folder: Path,
    like: Checkpoint,
    sources: Sequence[TensorSource],
    *,
    max_shard_bytes: int = 2 << 30,
    progress: Progress | None = None,
) -> None:
    """Write a tirazh model directory: the tensors of `sources`, config and tokenizer of the model `like`.

    `config.json` is written last. Raises CheckpointError for a damaged tokenizer and for values too
    large for the dtype.
    """
    assert like.config is not None
    token_ids = _token_ids(like)
    write_weights(folder, sources, max_shard_bytes=max_shard_bytes, progress=progress)
    _copy_tokenizer(like.tokenizer_dir, folder)
    write_json(folder / "config.json", native_config(like.config, written_dtype(sources)) | token_ids)


def write_weights(
    folder: Path, sources: Sequence[TensorSource], *, max_shard_bytes: int = 2 << 30, progress: Progress | None = None
) -> None:
    """Write `model.safetensors`, or numbered files of `max_shard_bytes` with their index.

    Raises CheckpointError for values too large for a tensor's dtype.
    """
    _write_shards(folder, _shards(sources, max_shard_bytes), progress or (lambda done, total: None))


def written_dtype(sources: Sequence[TensorSource]) -> str:
    """Return the dtype for config.json: that of all tensors, or float32 when they differ."""
    dtypes = {source.dtype for source in sources}
    return dtypes.pop() if len(dtypes) == 1 else "float32"


def token_ids_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the token ids for config.json and generation_config.json."""
    ends = list(tokenizer.end_token_ids)
    return {"eos_token_id": ends[0] if len(ends) == 1 else ends, "pad_token_id": tokenizer.pad_token_id}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, which gets its name when it is complete."""
    partial_path = path.with_name(path.name + PARTIAL)
    partial_path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial_path.rename(path)


def _source(checkpoint: Checkpoint, name: str, dtype: str | None) -> TensorSource:
    return TensorSource(
        name=name,
        shape=checkpoint.shape(name),
        dtype=dtype or checkpoint.dtype(name),
        read_rows=partial(checkpoint.read, name, 0),
    )


def _shards(sources: Sequence[TensorSource], max_bytes: int) -> list[list[TensorSource]]:
    """Group the tensors, in order, into files of at most `max_bytes`, or of one larger tensor."""
    shards: list[list[TensorSource]] = [[]]
    filled = 0
    for source in sources:
        if shards[-1] and filled + source.num_bytes > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(source)
        filled += source.num_bytes
    return shards


def _write_shards(folder: Path, shards: Sequence[Sequence[TensorSource]], progress: Progress) -> None:
    total = sum(source.num_bytes for shard in shards for source in shard)
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(done, total)

    weight_map: dict[str, str] = {}
    for index, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard, on_bytes=count)
        weight_map |= {source.name: name for source in shard}
    if len(shards) > 1:
        index_values = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index_values)


def _token_ids(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the token ids for config.json. Raises CheckpointError for a damaged tokenizer."""
    if checkpoint.tokenizer_dir is None:
        return {}
    return token_ids_of(load_tokenizer(checkpoint.tokenizer_dir, checkpoint.path))


def _copy_tokenizer(tokenizer_dir: str | None, folder: Path) -> None:
    for name in TOKENIZER_FILES if tokenizer_dir is not None else ():
        path = Path(str(tokenizer_dir), name)
        if path.is_file():
            shutil.copyfile(path, folder / name)


def check_target(folder: Path, num_bytes: int) -> None:
    """Create the directory. Raises OutputError when it is not empty, or the disk is too small."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; give a new directory")
    if folder.is_dir() and any(folder.iterdir()):
        is_unfinished = not (folder / "config.json").exists() and any(folder.glob("model*.safetensors*"))
        what = "an unfinished conversion" if is_unfinished else "other files"
        raise OutputError(f"{folder} holds {what}; remove it, or give a new directory")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be created: {error.strerror}; give another directory") from error
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise OutputError(
            f"{folder} has {free / 1e9:.1f} GB free, but the model needs {num_bytes / 1e9:.1f} GB; give another disk"
        )


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Empty the directory again when the conversion fails."""
    is_complete = False
    try:
        yield
        is_complete = True
    except OSError as error:
        raise OutputError(f"writing to {folder} failed: {error.strerror or error}") from error
    finally:
        if not is_complete:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
