"""Malformed model directories: config.json, safetensors, indices, trackers and special files."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.ending import attempt, refusal
from tests.fuzz.models import DEEP, JSON_FILES, DamagedCopy, read_model
from tirazh.model.checkpoints.directory import describe


def test_undamaged_models_are_read_without_an_error(models: dict[str, Path]) -> None:
    for folder in models.values():
        read_model(folder)


NAMES = {
    "native": [*("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings")],
    "gpt2": [*("n_layer", "n_embd", "n_head", "vocab_size", "n_positions", "n_inner", "activation_function")],
    "port": [*("num_hidden_layers", "sparse_block_size", "sparse_num_local_blocks", "sparse_mode")],
}
EXTRA = {
    "native": [*("model_type", "sparse_mode", "sparse_pattern", "sparse_layout_groups", "layer_norm_eps")],
    "gpt2": [*("model_type", "layer_norm_epsilon", "tie_word_embeddings", "scale_attn_weights", "add_cross_attention")],
    "port": [*("layer_norm_eps", "intermediate_size", "model_type", "num_attention_heads")],
}
VALUES = [None, -1, 0, 10**9, 10**30, 1.5, "2", "\ud800", [1], {"a": 1}, True, float("nan"), float("inf"), "x" * 9_999]
CONFIG_CASES = [
    (kind, name, index) for kind in NAMES for name in NAMES[kind] + EXTRA[kind] for index in range(len(VALUES))
]


@pytest.mark.parametrize(("kind", "name", "index"), CONFIG_CASES)
def test_a_config_with_an_unusual_value_works_or_is_refused(
    kind: str, name: str, index: int, damaged: DamagedCopy, models: dict[str, Path]
) -> None:
    values = json.loads((models[kind] / "config.json").read_text()) | {name: VALUES[index]}
    text = json.dumps(values).encode()
    folder = damaged(kind, "config.json", text)
    attempt("config.json", (kind, text), lambda: describe(str(folder)))


PATTERNS: list[Any] = [
    *({"block_size": value} for value in (0, -1, 1.5, "4", None, [4], True, 10**30, float("nan"))),
    *({"num_local_blocks": value} for value in (0, 3.5, float("nan"), 10**30)),
    *({"num_different_global_patterns": value} for value in (99, float("nan"), "1")),
    *({"different_layout_per_head": value} for value in (0, "no", None)),
    *([], "fixed", 7, {"unknown": 1}, {"": 1}, {"block_size": {"block_size": 4}}),
]


@pytest.mark.parametrize("index", range(len(PATTERNS)))
def test_a_malformed_sparse_pattern_is_refused(index: int, damaged: DamagedCopy, models: dict[str, Path]) -> None:
    values = json.loads((models["native"] / "config.json").read_text()) | {"sparse_pattern": PATTERNS[index]}
    folder = damaged("native", "config.json", json.dumps(values).encode())
    refusal("config.json", repr(PATTERNS[index]), lambda: describe(str(folder)))


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_malformed_json_is_refused(name: str, file: str, damaged: DamagedCopy) -> None:
    folder = damaged("indexed", file, JSON_FILES[name])
    refusal(file, JSON_FILES[name], lambda: read_model(folder))


@pytest.mark.parametrize("name", [name for name in JSON_FILES if name not in ("NaN", "null")])
@pytest.mark.parametrize("file", ["model_args.json", "deepspeed_config.json"])
def test_malformed_json_beside_a_pickle_works_or_is_refused(name: str, file: str, damaged: DamagedCopy) -> None:
    folder = damaged("rugpts", file, JSON_FILES[name])
    attempt(file, JSON_FILES[name], lambda: read_model(folder))


WEIGHT_MAPS: list[Any] = [
    *(
        None,
        [],
        {},
        "x",
        {"a": "../../etc/passwd"},
        {"a": "/etc/passwd"},
        {"a": "..\\x"},
        {"a": "\0"},
        {"a": "x" * 300},
    ),
    *({"a": 7}, {"a": None}, {"a": {"b": "c"}}, {"a": ""}, {"a": "."}, {"a": ".."}, {"a": "sub/x.safetensors"}),
    *({"a": "config.json"}, {"a": "~/x"}, {"a": "file:///etc/passwd"}, {"a": "\ud800"}, {"a": "model\n.safetensors"}),
]


@pytest.mark.parametrize("index", range(len(WEIGHT_MAPS)))
def test_an_index_that_names_other_directories_is_refused(index: int, damaged: DamagedCopy) -> None:
    text = json.dumps({"weight_map": WEIGHT_MAPS[index]}).encode()
    folder = damaged("indexed", "model.safetensors.index.json", text)
    refusal("model.safetensors.index.json", text, lambda: read_model(folder))


TRACKERS = [
    *(
        b"",
        b"../../etc",
        b"/etc",
        b"..",
        b".",
        b"100/../100",
        b"100\n200",
        b"\0",
        b"x" * 300,
        b"9" * 5_000,
        b"\xff\xfe",
    ),
    *(b"release; rm -rf /", b"-1", b"1e9", "１００".encode(), b"a b", b"~", bytes(4096), b"200"),
]


@pytest.mark.parametrize("index", range(len(TRACKERS)))
def test_a_tracker_that_names_other_directories_is_refused(index: int, damaged: DamagedCopy) -> None:
    folder = damaged("rugpts", "latest_checkpointed_iteration.txt", TRACKERS[index])
    refusal("trackers", TRACKERS[index], lambda: read_model(folder))


def header(tensors: Any, data: bytes = bytes(64), length: int | None = None) -> bytes:
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(dtype: Any = "F32", shape: Any = (4, 4), offsets: Any = (0, 64)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


SAFETENSORS = {
    "an empty file": b"",
    "only a length": bytes(8),
    "a length of 2**63": header(tensor(), length=2**63),
    "a length beyond the end": header(tensor(), length=10**6),
    "a length of 99,999,999": header(tensor(), length=99_999_999),
    "a header that is not JSON": header(b"x" * 50),
    "a header of deep JSON": header(DEEP.encode()),
    "a header that is a list": header([]),
    "an unknown dtype": header(tensor("F33")),
    "a dtype that is a number": header(tensor(7)),
    "a negative shape": header(tensor(shape=(-4, -4))),
    "a shape of fractions": header(tensor(shape=(0.5, 32))),
    "a shape larger than memory": header(tensor(shape=(2**40, 2**40))),
    "a shape that overflows": header(tensor(shape=(2**32, 2**32, 4))),
    "a shape with a zero": header(tensor(shape=(0, 2**60), offsets=(0, 0)), b""),
    "offsets in descending order": header(tensor(offsets=(64, 0))),
    "offsets beyond the end": header(tensor(offsets=(0, 2**50))),
    "negative offsets": header(tensor(offsets=(-64, 0))),
    "offsets that overlap": header({"a": tensor()["a"], "b": tensor()["a"]}),
    "a gap before the first tensor": header(tensor(offsets=(64, 128)), bytes(128)),
    "a repeated name": header(b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"a":7}'),
    "metadata that is a number": header({"__metadata__": {"a": 7}, **tensor()}),
    "a lone surrogate": header(b'{"\\ud800":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}'),
    "a name of control characters": header({"\x1b[31m\0": tensor()["a"]}),
    "a pickle": pickle.dumps({"a": 1}),
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_malformed_safetensors_file_is_refused(name: str, damaged: DamagedCopy) -> None:
    folder = damaged("native", "model.safetensors", SAFETENSORS[name])
    refusal("safetensors", SAFETENSORS[name], lambda: read_model(folder))


def test_unusual_directories_and_special_files_are_refused(damaged: DamagedCopy, tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    for name in ("", "nul\0", "x" * 300, str(tmp_path / "round"), "/dev/null", "http://x/y", "~nobody/x", "\udcff"):
        refusal("directories", name, lambda name=name: describe(name))
    folder = damaged("native")
    for name in ("config.json", "model.safetensors"):
        for make in (
            os.mkfifo,
            os.mkdir,
            lambda path: os.symlink(path, path),
            lambda path: os.symlink("/dev/zero", path),
        ):
            folder = damaged("native")
            (folder / name).unlink()
            make(folder / name)
            refusal("directories", (name, repr(make)), lambda folder=folder: read_model(folder))
