"""Writes valid model directories, reads and damages them, and lists malformed JSON files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.model.checkpoints.samples import (
    TINY,
    TINY_DENSE,
    random_weights,
    write_gpt2,
    write_native,
    write_port,
    write_rugpts,
)
from tirazh.model.checkpoints.directory import describe, open_checkpoint
from tirazh.model.tokenizer import load_tokenizer

WEIGHTS = random_weights(TINY)
DEEP = "[" * 100_000
RANK_FILE = "100/mp_rank_00_model_states.pt"
DamagedCopy = Callable[..., Path]


def read_model(folder: Path) -> None:
    """Read a model directory completely: summary, weights and tokenizer."""
    describe(str(folder))
    checkpoint = open_checkpoint(str(folder))
    for name in checkpoint.names():
        checkpoint.read(name)
    if checkpoint.tokenizer_dir is not None:
        load_tokenizer(checkpoint.tokenizer_dir)


def write_models(root: Path) -> dict[str, Path]:
    """Write one directory of each format."""
    return {
        "native": write_native(root / "native", WEIGHTS),
        "gpt2": write_gpt2(root / "gpt2", random_weights(TINY_DENSE)),
        "port": write_port(root / "port", WEIGHTS, TINY),
        "rugpts": write_rugpts(root / "rugpts", WEIGHTS),
        "old": write_rugpts(root / "old", WEIGHTS, layout="old"),
        "indexed": write_native(root / "indexed", WEIGHTS, num_files=2),
    }


def copy_damaged(good: Path, folder: Path, name: str | None, content: bytes) -> Path:
    """Copy a valid model to `folder` and replace one file."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    if name is not None:
        (folder / name).write_bytes(content)
    return folder


JSON_FILES = {
    "an empty file": b"",
    "a list": b"[]",
    "a number": b"7",
    "a string": b'"x"',
    "null": b"null",
    "truncated": b'{"model_type": "rugpt3", ',
    "deep lists, unclosed": DEEP.encode(),
    "deep objects, unclosed": b'{"a":' * 50_000,
    "deep lists, closed": b'{"model_type": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "a huge number": b'{"n_layer": ' + b"9" * 5_000 + b"}",
    "NaN": b'{"model_type": NaN}',
    "a model type that is a list": b'{"model_type": ["gpt2"]}',
    "a model type that is a path": b'{"model_type": "../../evil"}',
    "a model type with a NUL": b'{"model_type": "\\u0000"}',
    "latin-1": '{"model_type": "é"}'.encode("latin-1"),
    "utf-16": '{"model_type": "gpt2"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"model_type": "gpt2"}',
    "zero bytes": bytes(1_000),
    "a lone surrogate": b'{"model_type": "\\ud800"}',
}
