"""What config.json and the files beside it say is followed, asked for, or refused with the file's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.model.checkpoints.damage import refusal
from tests.model.checkpoints.samples import (
    TINY,
    TINY_DENSE,
    Weights,
    change_json,
    random_weights,
    write_gpt2,
    write_llama,
    write_native,
    write_port,
)
from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import describe
from tirazh.model.config import ModelSettings

# What config.json and its neighbours say


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"architectures": ["GPT2ForSequenceClassification"]},
            "is a GPT2ForSequenceClassification, which is no causal",
        ),
        ({"architectures": ["BertForMaskedLM"]}, "no causal language model"),
        ({"is_encoder_decoder": True}, "describes an encoder-decoder"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config (gptq)"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config (of an unknown method)"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compression_config (compressed-tensors)"),
        ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype 'float8_e4m3fn'; weights must be one of"),
        ({"dtype": 5}, "says dtype '5'"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false, but it is 'false'"),
        ({"sparse_mode": "alternating"}, "is dense and would give far worse text"),
    ],
)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_config_of_another_kind_of_model_is_refused(
    tmp_path: Path, kind: str, values: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "m"
    folder = write_llama(folder) if kind == "llama" else write_gpt2(folder, random_weights(TINY_DENSE))
    change_json(folder / "config.json", **values)
    sentence = refusal(folder)
    assert words in sentence
    assert "config.json" in sentence


@pytest.mark.parametrize("write", [write_native, lambda folder, weights: write_port(folder, weights, TINY)])
def test_another_activation_is_refused(tmp_path: Path, write: Callable[[Path, Weights], Path]) -> None:
    folder = write(tmp_path / "m", random_weights(TINY))
    change_json(folder / "config.json", hidden_act="gelu_pytorch_tanh")
    describe(str(folder))
    change_json(folder / "config.json", hidden_act="relu")
    assert "hidden_act is 'relu'" in refusal(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_is_refused_with_the_way_to_merge_it(tmp_path: Path, name: str) -> None:
    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE))
    (folder / name).write_text("{}")
    assert "merge_and_unload()" in refusal(folder)


def test_code_of_a_directory_is_named_when_transformers_has_the_model(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    change_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    (notice,) = describe(str(folder)).notices
    assert "auto_map), which is never run" in notice


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.Q4_K_M.gguf", "a file of llama.cpp"),
        ("model-00001-of-00002.safetensors", "but no index"),
        ("weights.safetensors", "rename it"),
        ("tf_model.h5", "a format that is not read"),
    ],
)
@pytest.mark.parametrize("has_config", [True, False])
def test_weights_of_another_format_are_named(tmp_path: Path, has_config: bool, name: str, words: str) -> None:
    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE))
    (folder / "model.safetensors").rename(folder / name)
    if not has_config:
        (folder / "config.json").unlink()
    sentence = refusal(folder)
    assert name in sentence
    assert words in sentence


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE))
    (folder / "model.safetensors").unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert "git lfs pull" in refusal(folder)


# A port that does not say which layers are sparse


@pytest.fixture
def silent_port(tmp_path: Path) -> Path:
    folder = write_port(tmp_path / "port", random_weights(TINY), TINY)
    change_json(folder / "config.json", sparse_mode=None)
    return folder


def test_a_port_that_does_not_say_is_asked_for_never_assumed(silent_port: Path) -> None:
    sentence = refusal(silent_port)
    assert "give --sparse-mode" in sentence
    assert "did you mean" not in sentence


def test_the_flag_completes_a_port_and_its_pattern_is_kept(silent_port: Path) -> None:
    assert describe(str(silent_port), ModelSettings(sparse_mode="alternating")).config == TINY
    dense = describe(str(silent_port), ModelSettings(sparse_mode="none")).config
    assert dense is not None
    assert dense.sparse_mode == "none"


def test_a_port_without_a_pattern_has_the_published_one(silent_port: Path) -> None:
    names = ("block_size", "num_local_blocks", "num_global_blocks", "num_different_global_patterns")
    change_json(silent_port / "config.json", **dict.fromkeys([f"sparse_{name}" for name in names]))
    config = describe(str(silent_port), ModelSettings(sparse_mode="all", fix_sparsity_layout=2)).config
    assert config is not None
    assert config.sparse_pattern.num_local_blocks == 8
    assert config.layout_groups == 2


def test_a_flag_that_contradicts_the_sizes_of_such_a_port_is_refused(silent_port: Path) -> None:
    with pytest.raises(CheckpointError, match="--preset rugpt3xl says num_layers 24, but the weights"):
        describe(str(silent_port), ModelSettings(preset="rugpt3xl"))
    with pytest.raises(CheckpointError, match="says 4 attention heads itself"):
        describe(str(silent_port), ModelSettings(sparse_mode="all", num_attention_heads=8))


def test_a_native_directory_without_a_sparse_mode_is_not_told_that_none_is_meant(tmp_path: Path) -> None:
    folder = write_native(tmp_path / "m", random_weights(TINY))
    change_json(folder / "config.json", sparse_mode=None)
    sentence = refusal(folder)
    assert "sparse_mode is missing" in sentence
    assert "did you mean" not in sentence


# Text files of other systems


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_named(tmp_path: Path, encoding: str) -> None:
    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE))
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text, encoding=encoding)
    assert "begins with a byte order mark" in refusal(folder)


def test_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE))
    before = describe(str(folder)).fingerprint
    path = folder / "config.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert describe(str(folder)).fingerprint == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"model_type": "gpt2", "n_head": 4, "n_head": 8}', "gives 'n_head' twice"),
        ('{"model_type": "gpt2", "layer_norm_epsilon": NaN}', "it holds NaN"),
        ('{"model_type": "gpt2", "layer_norm_epsilon": Infinity}', "it holds Infinity"),
    ],
)
def test_json_that_means_two_things_is_refused(tmp_path: Path, text: str, words: str) -> None:
    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE))
    (folder / "config.json").write_text(text)
    assert words in refusal(folder)
