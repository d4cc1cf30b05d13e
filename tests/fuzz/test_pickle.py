"""Malformed weights: torch pickles with code, false sizes or endless nesting, and randomly damaged files."""

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
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def saved(values: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(values, stream, **options)
    return stream.getvalue()


def state(changes: dict[str, Any]) -> dict[str, Any]:
    return rank_weights(WEIGHTS, TINY, rank=0, mp=1) | changes


def with_words(words: torch.Tensor) -> bytes:
    return saved({"module": state({"word_embeddings.weight": words})})


def nested(levels: int) -> dict[str, Any]:
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


def zipped(pickled: bytes, *, compression: int = zipfile.ZIP_STORED, name: str = "archive/data.pkl") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(name, pickled)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
    return stream.getvalue()


def claims(size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(16, dtype=torch.float16).as_strided(size, stride)


PICKLES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "a text": lambda: b"hello",
    "a list": lambda: saved([1, 2]),
    "a tensor": lambda: saved(torch.zeros(3)),
    "no weights": lambda: saved({"module": {}}),
    "code: a command": lambda: saved({"module": state({"x": Code(os.system, "true")})}),
    "code: a command in an old file": lambda: saved(
        {"x": Code(os.system, "true")}, _use_new_zipfile_serialization=False
    ),
    "code: eval": lambda: saved({"module": state({"x": Code(eval, "1")})}),
    "code: a getter": lambda: saved({"module": state({"x": Code(getattr, (), "count")})}),
    "code: open": lambda: saved({"module": state({"x": Code(open, "/dev/null")})}),
    "code: a plain pickle": lambda: pickle.dumps({"x": Code(os.system, "true")}),
    "a plain pickle": lambda: pickle.dumps({"a": 1}),
    "a cycle": lambda: saved({"module": cyclic()}),
    "shared over and over": lambda: saved({"module": state({"x": nested(60)})}),
    "deep": lambda: saved({"module": state({"x": deep(200)})}),
    "more than it holds, by stride 0": lambda: saved(
        {"module": state({"word_embeddings.weight": claims((1 << 30, 16), (0, 1))})}
    ),
    "positions without end": lambda: saved(
        {"module": state({"position_embeddings.weight": claims((1 << 40, 32), (0, 0))})}
    ),
    "a layer of a large number": lambda: saved({"module": state({"transformer.layers.999999999.x": torch.zeros(1)})}),
    "a layer of an endless number": lambda: saved(
        {"module": state({f"transformer.layers.{'9' * 5_000}.x": torch.zeros(1)})}
    ),
    "a sparse tensor": lambda: with_words(torch.eye(48, 32).to_sparse()),
    "a complex tensor": lambda: saved(
        {"module": state({"word_embeddings.weight": torch.zeros(48, 32, dtype=torch.complex64)})}
    ),
    "whole numbers": lambda: saved(
        {"module": state({"word_embeddings.weight": torch.zeros(48, 32, dtype=torch.int64)})}
    ),
    "a tensor without a dimension": lambda: with_words(torch.tensor(1.0)),
    "a tensor of nothing": lambda: with_words(torch.zeros(0, 32)),
    "no width": lambda: with_words(torch.zeros(48, 0)),
    "a tensor of three dimensions": lambda: saved(
        {"module": state({"word_embeddings.weight": torch.zeros(4, 12, 32)})}
    ),
    "a missing tensor": lambda: saved({"module": {"word_embeddings.weight": torch.zeros(48, 32)}}),
    "a meta tensor": lambda: with_words(torch.zeros(48, 32, device="meta")),
    "a version that is a text": lambda: saved({"module": state({}), "checkpoint_version": "two"}),
    "a version that is endless": lambda: saved({"module": state({}), "checkpoint_version": 10**400}),
    "a version that is no number": lambda: saved({"module": state({}), "checkpoint_version": float("nan")}),
    "a version between": lambda: saved({"module": state({}), "checkpoint_version": 1.5}),
    "keys that are tuples": lambda: saved({"module": {("a", 1): torch.zeros(1)}}),
    "a zip bomb": lambda: zipped(bytes(1 << 27), compression=zipfile.ZIP_DEFLATED),
    "a packed pickle": lambda: zipped(pickle.dumps({"module": {}}), compression=zipfile.ZIP_DEFLATED),
    "a zip without a pickle": lambda: zipped(b"", name="archive/other"),
    "a zip of an empty pickle": lambda: zipped(b""),
    "a name that climbs": lambda: zipped(pickle.dumps({}), name="../../data.pkl"),
    "a pickle of a claimed length": lambda: zipped(b"\x80\x02\x8d" + (1 << 60).to_bytes(8, "little") + b"x."),
    "a pickle of a long number": lambda: zipped(b"\x80\x02\x8b" + (1 << 30).to_bytes(4, "little") + b"x."),
    "a pickle of a claimed length, old": lambda: b"\x80\x02\x8d" + (1 << 60).to_bytes(8, "little") + b"x.",
    "a pickle that only pops": lambda: zipped(b"\x80\x02" + b"0" * 10 + b"."),
    "a pickle that doubles a list": lambda: zipped(b"\x80\x02]" + b"(2l" * 50 + b"."),
    "a script": lambda: b"#!/bin/sh\ntrue\n",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_with_more_or_less_than_weights_is_refused(name: str, damaged: DamagedCopy) -> None:
    content = PICKLES[name]()
    folder = damaged("rugpts", RANK_FILE, content)
    (refusal if name not in ("deep", "a version that is no number") else attempt)(
        "pickles", content, lambda: read_model(folder)
    )
