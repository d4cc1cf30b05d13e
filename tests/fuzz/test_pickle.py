"""Malformed weights: torch pickles with code, false sizes or deep nesting, and randomly damaged files."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fuzz.ending import attempt, refusal
from tests.fuzz.models import RANK_FILE, WEIGHTS, DamagedCopy, read_model
from tests.fuzz.mutations import mutants
from tests.model.checkpoints.samples import TINY, rank_weights


@pytest.mark.parametrize("kind", ["native", "rugpts", "old"])
def test_randomly_damaged_weights_work_or_are_refused(kind: str, damaged: DamagedCopy, models: dict[str, Path]) -> None:
    name = "model.safetensors" if kind == "native" else RANK_FILE
    good = (models[kind] / name).read_bytes()
    folder = damaged(kind)
    head = 4_000 if kind == "native" else len(good)
    for _, content in mutants(good[:head], count=60, seed=1):
        (folder / name).write_bytes(content + good[head:])
        attempt("safetensors" if kind == "native" else "pickles", content, lambda: read_model(folder))
    for _, content in mutants(good, count=20, seed=2, near_end=True):
        (folder / name).write_bytes(content)
        attempt("safetensors" if kind == "native" else "pickles", content, lambda: read_model(folder))


class Code:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def to_torch_file(values: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(values, stream, **options)
    return stream.getvalue()


def state(changes: dict[str, Any]) -> dict[str, Any]:
    return rank_weights(WEIGHTS, TINY, rank=0, mp=1) | changes


def with_embeddings(embeddings: torch.Tensor) -> bytes:
    return to_torch_file({"module": state({"word_embeddings.weight": embeddings})})


def shared_twice(levels: int) -> dict[str, Any]:
    """Return a dictionary that holds the next level twice: without sharing it has 2**levels entries."""
    values: dict[str, Any] = {}
    for _ in range(levels):
        values = {"a": values, "b": values}
    return values


def deep(levels: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(levels):
        values = {"a": values}
    return values


def cyclic() -> dict[str, Any]:
    values = state({})
    values["self"] = values
    return values


def to_zip(pickled: bytes, *, compression: int = zipfile.ZIP_STORED, name: str = "archive/data.pkl") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(name, pickled)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
    return stream.getvalue()


def oversized(size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """Return a view of 16 elements that claims to have more."""
    return torch.zeros(16, dtype=torch.float16).as_strided(size, stride)


PICKLES: dict[str, Callable[[], bytes]] = {
    "an empty file": lambda: b"",
    "plain text": lambda: b"hello",
    "a list": lambda: to_torch_file([1, 2]),
    "a tensor": lambda: to_torch_file(torch.zeros(3)),
    "no weights": lambda: to_torch_file({"module": {}}),
    "code: a command": lambda: to_torch_file({"module": state({"x": Code(os.system, "true")})}),
    "code: a command in the format before zip": lambda: to_torch_file(
        {"x": Code(os.system, "true")}, _use_new_zipfile_serialization=False
    ),
    "code: eval": lambda: to_torch_file({"module": state({"x": Code(eval, "1")})}),
    "code: a getter": lambda: to_torch_file({"module": state({"x": Code(getattr, (), "count")})}),
    "code: open": lambda: to_torch_file({"module": state({"x": Code(open, "/dev/null")})}),
    "code: a pickle without torch": lambda: pickle.dumps({"x": Code(os.system, "true")}),
    "a pickle without torch": lambda: pickle.dumps({"a": 1}),
    "a cycle": lambda: to_torch_file({"module": cyclic()}),
    "60 levels of shared dictionaries": lambda: to_torch_file({"module": state({"x": shared_twice(60)})}),
    "200 nested dictionaries": lambda: to_torch_file({"module": state({"x": deep(200)})}),
    "more elements than it holds, by stride 0": lambda: to_torch_file(
        {"module": state({"word_embeddings.weight": oversized((1 << 30, 16), (0, 1))})}
    ),
    "2**40 positions": lambda: to_torch_file(
        {"module": state({"position_embeddings.weight": oversized((1 << 40, 32), (0, 0))})}
    ),
    "a layer number of nine digits": lambda: to_torch_file(
        {"module": state({"transformer.layers.999999999.x": torch.zeros(1)})}
    ),
    "a layer number of 5,000 digits": lambda: to_torch_file(
        {"module": state({f"transformer.layers.{'9' * 5_000}.x": torch.zeros(1)})}
    ),
    "a sparse tensor": lambda: with_embeddings(torch.eye(48, 32).to_sparse()),
    "a complex tensor": lambda: to_torch_file(
        {"module": state({"word_embeddings.weight": torch.zeros(48, 32, dtype=torch.complex64)})}
    ),
    "an integer tensor": lambda: to_torch_file(
        {"module": state({"word_embeddings.weight": torch.zeros(48, 32, dtype=torch.int64)})}
    ),
    "a scalar tensor": lambda: with_embeddings(torch.tensor(1.0)),
    "a tensor without rows": lambda: with_embeddings(torch.zeros(0, 32)),
    "a tensor without columns": lambda: with_embeddings(torch.zeros(48, 0)),
    "a tensor of three dimensions": lambda: to_torch_file(
        {"module": state({"word_embeddings.weight": torch.zeros(4, 12, 32)})}
    ),
    "a missing tensor": lambda: to_torch_file({"module": {"word_embeddings.weight": torch.zeros(48, 32)}}),
    "a meta tensor": lambda: with_embeddings(torch.zeros(48, 32, device="meta")),
    "a version that is a string": lambda: to_torch_file({"module": state({}), "checkpoint_version": "two"}),
    "a version of 401 digits": lambda: to_torch_file({"module": state({}), "checkpoint_version": 10**400}),
    "a version that is NaN": lambda: to_torch_file({"module": state({}), "checkpoint_version": float("nan")}),
    "a fractional version": lambda: to_torch_file({"module": state({}), "checkpoint_version": 1.5}),
    "keys that are tuples": lambda: to_torch_file({"module": {("a", 1): torch.zeros(1)}}),
    "a zip bomb": lambda: to_zip(bytes(1 << 27), compression=zipfile.ZIP_DEFLATED),
    "a compressed pickle": lambda: to_zip(pickle.dumps({"module": {}}), compression=zipfile.ZIP_DEFLATED),
    "a zip without a pickle": lambda: to_zip(b"", name="archive/other"),
    "a zip with an empty pickle": lambda: to_zip(b""),
    "a path that leaves the archive": lambda: to_zip(pickle.dumps({}), name="../../data.pkl"),
    "a string of a false length": lambda: to_zip(b"\x80\x02\x8d" + (1 << 60).to_bytes(8, "little") + b"x."),
    "an integer of a false length": lambda: to_zip(b"\x80\x02\x8b" + (1 << 30).to_bytes(4, "little") + b"x."),
    "a string of a false length, without a zip": lambda: b"\x80\x02\x8d" + (1 << 60).to_bytes(8, "little") + b"x.",
    "a pickle that pops an empty stack": lambda: to_zip(b"\x80\x02" + b"0" * 10 + b"."),
    "a pickle that doubles a list": lambda: to_zip(b"\x80\x02]" + b"(2l" * 50 + b"."),
    "a shell script": lambda: b"#!/bin/sh\ntrue\n",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_with_code_or_malformed_weights_is_refused(name: str, damaged: DamagedCopy) -> None:
    content = PICKLES[name]()
    folder = damaged("rugpts", RANK_FILE, content)
    (refusal if name not in ("200 nested dictionaries", "a version that is NaN") else attempt)(
        "pickles", content, lambda: read_model(folder)
    )
