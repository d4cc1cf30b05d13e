"""Every damaged directory with a config.json gives one CheckpointError that names the place and the remedy."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.checkpoints.damage import Cases, truncated
from tests.model.checkpoints.samples import (
    TINY,
    TINY_DENSE,
    change_json,
    random_weights,
    write_gpt2,
    write_json,
    write_native,
    write_port,
)
from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import open_checkpoint

WEIGHTS = random_weights(TINY)
CASES = Cases()


@CASES.add("no such directory", "no model directory")
def _(tmp: Path) -> Path:
    return tmp / "nowhere" / "model"


@CASES.add("misspelt directory", "did you mean rugpt3xl?")
def _(tmp: Path) -> Path:
    (tmp / "rugpt3xl").mkdir()
    return tmp / "rugtp3xl"


@CASES.add("a file", "is a file; give the directory")
def _(tmp: Path) -> Path:
    return write_native(tmp / "m", WEIGHTS) / "config.json"


@CASES.add("empty directory", "looked for config.json")
def _(tmp: Path) -> Path:
    (tmp / "m").mkdir()
    return tmp / "m"


@CASES.add("config without weights", "no weights in")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    (folder / "model.safetensors").unlink()
    return folder


@CASES.add("weights without config", "looked for config.json")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    (folder / "config.json").unlink()
    return folder


@CASES.add("config is not JSON", "is not readable JSON")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    (folder / "config.json").write_text("{")
    return folder


@CASES.add("config is a list", "must hold a JSON object, not a list")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    (folder / "config.json").write_text("[]")
    return folder


@CASES.add("config without model_type", "has no model_type")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    change_json(folder / "config.json", model_type=None)
    return folder


@CASES.add("config without a size", "num_hidden_layers must be a whole number of at least 1, but it is missing")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    change_json(folder / "config.json", num_hidden_layers=None)
    return folder


@CASES.add("config with a size that is text", "n_layer must be a whole number of at least 1, but it is '2'")
def _(tmp: Path) -> Path:
    return write_gpt2(tmp / "m", random_weights(TINY_DENSE), n_layer="2")


@CASES.add("config with a broken pattern", "sparse_pattern is not a pattern")
def _(tmp: Path) -> Path:
    return write_native(tmp / "m", WEIGHTS, sparse_pattern={"blocksize": 4})


@CASES.add("config without its pattern", "sparse_pattern is missing")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    change_json(folder / "config.json", sparse_pattern=None)
    return folder


@CASES.add("hidden size not divisible", "hidden size 32 is not a multiple of 5 attention heads")
def _(tmp: Path) -> Path:
    return write_native(tmp / "m", WEIGHTS, num_attention_heads=5)


@CASES.add("another MLP width", "intermediate_size must be 128")
def _(tmp: Path) -> Path:
    return write_port(tmp / "m", WEIGHTS, TINY, intermediate_size=64)


@CASES.add("port with a misspelt sparse mode", "not 'alternate'; did you mean alternating?")
def _(tmp: Path) -> Path:
    return write_port(tmp / "m", WEIGHTS, TINY, sparse_mode="alternate")


@CASES.add("port without a sparse mode", "give --sparse-mode (none, all, alternating, top_bottom; none means dense)")
def _(tmp: Path) -> Path:
    folder = write_port(tmp / "m", WEIGHTS, TINY)
    change_json(folder / "config.json", sparse_mode=None)
    return folder


@CASES.add("more layers than the config says", "holds more layers than config.json says (1)")
def _(tmp: Path) -> Path:
    return write_native(tmp / "m", WEIGHTS, num_hidden_layers=1)


@CASES.add("gpt2 with more layers than the config says", "holds more layers than n_layer of config.json says (1)")
def _(tmp: Path) -> Path:
    return write_gpt2(tmp / "m", random_weights(TINY_DENSE), n_layer=1)


@CASES.add(
    "fewer layers than the config says",
    "model.layers.2.post_attention_layernorm.weight and 13 more, though config.json requires it",
)
def _(tmp: Path) -> Path:
    return write_native(tmp / "m", WEIGHTS, num_hidden_layers=3)


@CASES.add("shapes disagree with the config", "but the model's sizes require [50, 32]")
def _(tmp: Path) -> Path:
    return write_native(tmp / "m", WEIGHTS, vocab_size=50)


@CASES.add("quantised weights", "quantised checkpoints are not supported")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, folder / "model.safetensors")
    return folder


@CASES.add("gpt2 without a tensor", "has no tensor transformer.h.1.attn.c_attn.bias")
def _(tmp: Path) -> Path:
    folder = write_gpt2(tmp / "m", random_weights(TINY_DENSE))
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.attn.c_attn.bias"]
    save_file(tensors, folder / "model.safetensors")
    return folder


@CASES.add("truncated safetensors", "model.safetensors is truncated or damaged")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    truncated(folder / "model.safetensors", 0.9)
    return folder


@CASES.add("safetensors header damaged", "model.safetensors is truncated or damaged")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[8:20] = b"not a header"
    (folder / "model.safetensors").write_bytes(data)
    return folder


@CASES.add("safetensors header of absurd length", "model.safetensors is truncated or damaged")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    return folder


@CASES.add("safetensors of no bytes", "model.safetensors is truncated or damaged")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@CASES.add("index names a file above", "only files of the same directory are opened")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS, num_files=2)
    index = folder / "model.safetensors.index.json"
    write_json(index, {"weight_map": dict.fromkeys(WEIGHTS, "../m/model-00001-of-00002.safetensors")})
    return folder


@CASES.add("index names an absolute file", "only files of the same directory are opened")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS, num_files=2)
    write_json(folder / "model.safetensors.index.json", {"weight_map": dict.fromkeys(WEIGHTS, "/etc/passwd")})
    return folder


@CASES.add("index without a map", "has no weight_map")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS, num_files=2)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}})
    return folder


@CASES.add("a file of the index missing", "model-00002-of-00002.safetensors is missing")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS, num_files=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return folder


@CASES.add("index names the wrong file for a tensor", "but it does not")
def _(tmp: Path) -> Path:
    folder = write_native(tmp / "m", WEIGHTS, num_files=2)
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    write_json(index, {"weight_map": weight_map | {"lm_head.weight": "model-00001-of-00002.safetensors"}})
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_directory_gives_one_sentence(tmp_path: Path, recwarn: pytest.WarningsRecorder, name: str) -> None:
    CASES.check(name, tmp_path)
    assert not recwarn.list


def test_a_model_in_object_storage_is_refused() -> None:
    with pytest.raises(CheckpointError, match="copy the model to a disk"):
        open_checkpoint("s3://models/rugpt3xl")
