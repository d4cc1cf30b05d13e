"""Model directories from anybody: config.json, safetensors, torch pickles, indices, trackers, tokenizers."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import describe, open_checkpoint
from model.tokenizer import load_tokenizer
from tests.fuzz.ending import attempt, refusal
from tests.fuzz.mutations import mutants
from tests.model.checkpoint_samples import (
    TINY,
    TINY_DENSE,
    random_weights,
    rank_weights,
    write_gpt2,
    write_native,
    write_port,
    write_rugpts,
)

WEIGHTS = random_weights(TINY)
DENSE = random_weights(TINY_DENSE)
DEEP = "[" * 100_000
RANK_FILE = "100/mp_rank_00_model_states.pt"


def look(folder: Path) -> None:
    """Everything that is done with a model directory, up to having its weights."""
    describe(str(folder))
    checkpoint = open_checkpoint(str(folder))
    for name in checkpoint.names():
        checkpoint.read(name)
    if checkpoint.tokenizer_dir is not None:
        load_tokenizer(checkpoint.tokenizer_dir)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "native": write_native(root / "native", WEIGHTS),
        "gpt2": write_gpt2(root / "gpt2", DENSE),
        "port": write_port(root / "port", WEIGHTS, TINY),
        "rugpts": write_rugpts(root / "rugpts", WEIGHTS),
        "old": write_rugpts(root / "old", WEIGHTS, layout="old"),
        "indexed": write_native(root / "indexed", WEIGHTS, num_files=2),
    }


@pytest.fixture
def spoil(models: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """`spoil("native", "config.json", b"…")`: a copy of a good model with one file replaced."""

    def make(kind: str, name: str | None = None, content: bytes = b"") -> Path:
        folder = tmp_path / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(models[kind], folder)
        if name is not None:
            (folder / name).write_bytes(content)
        return folder

    return make


def test_the_models_are_good_before_they_are_spoilt(models: dict[str, Path]) -> None:
    for folder in models.values():
        look(folder)


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
    (kind, name, place) for kind in NAMES for name in NAMES[kind] + EXTRA[kind] for place in range(len(VALUES))
]


@pytest.mark.parametrize(("kind", "name", "place"), CONFIG_CASES)
def test_a_config_with_a_strange_value_works_or_says_why(
    kind: str, name: str, place: int, spoil: Callable[..., Path], models: dict[str, Path]
) -> None:
    values = json.loads((models[kind] / "config.json").read_text()) | {name: VALUES[place]}
    text = json.dumps(values).encode()
    folder = spoil(kind, "config.json", text)
    attempt("config.json", (kind, text), lambda: describe(str(folder)))


PATTERNS: list[Any] = [
    *({"block_size": value} for value in (0, -1, 1.5, "4", None, [4], True, 10**30, float("nan"))),
    *({"num_local_blocks": value} for value in (0, 3.5, float("nan"), 10**30)),
    *({"num_different_global_patterns": value} for value in (99, float("nan"), "1")),
    *({"different_layout_per_head": value} for value in (0, "no", None)),
    *([], "fixed", 7, {"unknown": 1}, {"": 1}, {"block_size": {"block_size": 4}}),
]


@pytest.mark.parametrize("place", range(len(PATTERNS)))
def test_a_strange_pattern_is_refused(place: int, spoil: Callable[..., Path], models: dict[str, Path]) -> None:
    values = json.loads((models["native"] / "config.json").read_text()) | {"sparse_pattern": PATTERNS[place]}
    folder = spoil("native", "config.json", json.dumps(values).encode())
    refusal("config.json", repr(PATTERNS[place]), lambda: describe(str(folder)))


JSON_FILES = {
    "nothing": b"",
    "a list": b"[]",
    "a number": b"7",
    "a text": b'"x"',
    "null": b"null",
    "cut off": b'{"model_type": "rugpt3", ',
    "deep": DEEP.encode(),
    "deep objects": b'{"a":' * 50_000,
    "deep and whole": b'{"model_type": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "a huge number": b'{"n_layer": ' + b"9" * 5_000 + b"}",
    "not a number": b'{"model_type": NaN}',
    "a type that is a list": b'{"model_type": ["gpt2"]}',
    "a type that is a path": b'{"model_type": "../../evil"}',
    "a type that is none": b'{"model_type": "\\u0000"}',
    "latin-1": '{"model_type": "é"}'.encode("latin-1"),
    "utf-16": '{"model_type": "gpt2"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"model_type": "gpt2"}',
    "zeros": bytes(1_000),
    "half a surrogate": b'{"model_type": "\\ud800"}',
}


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_json_that_is_none_is_refused(name: str, file: str, spoil: Callable[..., Path]) -> None:
    folder = spoil("indexed", file, JSON_FILES[name])
    refusal(file, JSON_FILES[name], lambda: look(folder))


@pytest.mark.parametrize("name", [name for name in JSON_FILES if name not in ("not a number", "null")])
@pytest.mark.parametrize("file", ["model_args.json", "deepspeed_config.json"])
def test_json_beside_a_pickle_that_is_none_is_refused(name: str, file: str, spoil: Callable[..., Path]) -> None:
    folder = spoil("rugpts", file, JSON_FILES[name])
    attempt(file, JSON_FILES[name], lambda: look(folder))


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


@pytest.mark.parametrize("place", range(len(WEIGHT_MAPS)))
def test_an_index_that_reaches_elsewhere_is_refused(place: int, spoil: Callable[..., Path]) -> None:
    text = json.dumps({"weight_map": WEIGHT_MAPS[place]}).encode()
    folder = spoil("indexed", "model.safetensors.index.json", text)
    refusal("model.safetensors.index.json", text, lambda: look(folder))


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


@pytest.mark.parametrize("place", range(len(TRACKERS)))
def test_a_tracker_that_points_elsewhere_is_refused(place: int, spoil: Callable[..., Path]) -> None:
    folder = spoil("rugpts", "latest_checkpointed_iteration.txt", TRACKERS[place])
    refusal("trackers", TRACKERS[place], lambda: look(folder))


def header(tensors: Any, data: bytes = bytes(64), length: int | None = None) -> bytes:
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(dtype: Any = "F32", shape: Any = (4, 4), offsets: Any = (0, 64)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


SAFETENSORS = {
    "nothing": b"",
    "a length alone": bytes(8),
    "a length of everything": header(tensor(), length=2**63),
    "a length beyond the end": header(tensor(), length=10**6),
    "a length of a hundred million": header(tensor(), length=99_999_999),
    "no JSON": header(b"x" * 50),
    "deep JSON": header(DEEP.encode()),
    "a list": header([]),
    "an unknown type": header(tensor("F33")),
    "a type that is a number": header(tensor(7)),
    "a negative shape": header(tensor(shape=(-4, -4))),
    "a shape of halves": header(tensor(shape=(0.5, 32))),
    "a shape beyond all memory": header(tensor(shape=(2**40, 2**40))),
    "a shape that overflows": header(tensor(shape=(2**32, 2**32, 4))),
    "a shape of nothing": header(tensor(shape=(0, 2**60), offsets=(0, 0)), b""),
    "offsets backwards": header(tensor(offsets=(64, 0))),
    "offsets beyond the end": header(tensor(offsets=(0, 2**50))),
    "negative offsets": header(tensor(offsets=(-64, 0))),
    "offsets that overlap": header({"a": tensor()["a"], "b": tensor()["a"]}),
    "a hole": header(tensor(offsets=(64, 128)), bytes(128)),
    "the same name twice": header(b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"a":7}'),
    "metadata that is no text": header({"__metadata__": {"a": 7}, **tensor()}),
    "half a surrogate": header(b'{"\\ud800":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}'),
    "a name of control signs": header({"\x1b[31m\0": tensor()["a"]}),
    "a pickle": pickle.dumps({"a": 1}),
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_safetensors_file_that_lies_is_refused(name: str, spoil: Callable[..., Path]) -> None:
    folder = spoil("native", "model.safetensors", SAFETENSORS[name])
    refusal("safetensors", SAFETENSORS[name], lambda: look(folder))


@pytest.mark.parametrize("kind", ["native", "rugpts", "old"])
def test_weights_spoilt_at_random_work_or_say_why(
    kind: str, spoil: Callable[..., Path], models: dict[str, Path]
) -> None:
    name = "model.safetensors" if kind == "native" else RANK_FILE
    good = (models[kind] / name).read_bytes()
    folder = spoil(kind)
    head = 4_000 if kind == "native" else len(good)
    for _, content in mutants(good[:head], count=60, seed=1):
        (folder / name).write_bytes(content + good[head:])
        attempt("safetensors" if kind == "native" else "pickles", content, lambda: look(folder))
    for _, content in mutants(good, count=20, seed=2, near_end=True):
        (folder / name).write_bytes(content)
        attempt("safetensors" if kind == "native" else "pickles", content, lambda: look(folder))


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


def circle() -> dict[str, Any]:
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
    "a circle": lambda: saved({"module": circle()}),
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
    "a zip bomb": lambda: zipped(bytes(1 << 30), compression=zipfile.ZIP_DEFLATED),
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
def test_a_pickle_that_is_more_or_less_than_weights_is_refused(name: str, spoil: Callable[..., Path]) -> None:
    content = PICKLES[name]()
    folder = spoil("rugpts", RANK_FILE, content)
    (refusal if name not in ("deep", "a version that is no number") else attempt)(
        "pickles", content, lambda: look(folder)
    )


def test_directories_that_are_odd_are_refused(spoil: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    for name in ("", "nul\0", "x" * 300, str(tmp_path / "round"), "/dev/null", "http://x/y", "~nobody/x", "\udcff"):
        refusal("directories", name, lambda name=name: describe(name))
    folder = spoil("native")
    for name in ("config.json", "model.safetensors"):
        for make in (
            os.mkfifo,
            os.mkdir,
            lambda path: os.symlink(path, path),
            lambda path: os.symlink("/dev/zero", path),
        ):
            folder = spoil("native")
            (folder / name).unlink()
            make(folder / name)
            refusal("directories", (name, repr(make)), lambda folder=folder: look(folder))


TOKENIZERS = {
    **{f"tokenizer.json: {name}": ("tokenizer.json", data) for name, data in JSON_FILES.items() if name != "nothing"},
    "an empty model": ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}'),
    "an unknown model": ("tokenizer.json", b'{"model": {"type": "GPT9"}}'),
    "an id beyond all": ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}'),
    "a negative id": ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'),
    "a merge of nothing": ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}}'),
    "a bad pattern": (
        "tokenizer.json",
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "Split", "pattern": '
        b'{"Regex": "(((("}, "behavior": "Isolated", "invert": false}}',
    ),
}
SIDE_FILES = {
    "added: a list": ("added_tokens.json", b"[1]"),
    "added: texts": ("added_tokens.json", b'{"a": "b"}'),
    "added: nothing": ("added_tokens.json", b'{"a": null}'),
    "added: far away": ("added_tokens.json", b'{"a": 1000000000000}'),
    "added: negative": ("added_tokens.json", b'{"a": -5}'),
    "config: a list of added": ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}'),
    "config: added without content": ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {}}}'),
    "config: added of no number": ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "a"}}}'),
    "config: added that are texts": ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": "a"}}'),
    "config: deep": ("tokenizer_config.json", DEEP.encode()),
    "vocab: a list": ("vocab.json", b"[]"),
    "vocab: cut off": ("vocab.json", b'{"a": 0,'),
    "vocab: empty": ("vocab.json", b"{}"),
    "vocab: texts": ("vocab.json", b'{"a": "b"}'),
    "vocab: no end": ("vocab.json", b'{"a": 0, "b": 1}'),
    "merges: binary": ("merges.txt", b"\xff\xfe\x00"),
    "merges: three words": ("merges.txt", b"#version: 0.2\na b c\n"),
    "merges: unknown": ("merges.txt", b"#version: 0.2\nq w\n"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_is_none_is_refused(name: str, tiny_model: Path, tmp_path: Path) -> None:
    file, content = TOKENIZERS[name]
    folder = shutil.copytree(tiny_model, tmp_path / "tokenizer")
    (folder / file).write_bytes(content)
    refusal("tokenizers", content, lambda: load_tokenizer(str(folder)).encode("abc"))


@pytest.mark.parametrize("name", SIDE_FILES)
def test_a_tokenizer_of_two_files_that_is_none_works_or_says_why(name: str, tmp_path: Path) -> None:
    file, content = SIDE_FILES[name]
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / file).write_bytes(content)
    attempt("tokenizers", (file, content), lambda: load_tokenizer(str(tmp_path)).encode("ab"))


@pytest.mark.parametrize(
    "value", ["null", '"x"', "-1", "1e99", "[]", '["a"]', "[null]", "{}", "NaN", "true", "99999999999"]
)
def test_an_end_token_of_a_wrong_kind_works_or_says_why(value: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "config.json").write_text(f'{{"eos_token_id": {value}}}')
    attempt("tokenizers", value, lambda: load_tokenizer(str(tmp_path)).encode("ab"))


def test_a_tokenizer_spoilt_at_random_works_or_says_why(tiny_model: Path, tmp_path: Path) -> None:
    good = (tiny_model / "tokenizer.json").read_bytes()
    for _, content in mutants(good, count=100, seed=3):
        (tmp_path / "tokenizer.json").write_bytes(content)
        attempt("tokenizers", content, lambda: load_tokenizer(str(tmp_path)).encode("abc день"))
