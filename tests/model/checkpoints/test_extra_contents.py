"""Everything that a directory says besides its weights is used, named in a notice, or refused; never dropped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.checkpoints.damage import refusal
from tests.model.checkpoints.samples import (
    TINY,
    TINY_DENSE,
    Weights,
    change_json,
    gpt2_weights,
    random_weights,
    rank_weights,
    write_files,
    write_gpt2,
    write_json,
    write_llama,
    write_native,
    write_port,
    write_rugpts,
)
from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import describe, open_checkpoint
from tirazh.model.convert import convert
from tirazh.model.load import load_pretrained

TOKENS = torch.arange(40).reshape(2, 20)
UNTIED = replace(TINY, tie_word_embeddings=False)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(TOKENS).logits
        return found


def loaded(folder: Path) -> torch.Tensor:
    return logits(load_pretrained(str(folder)))


def add_tensors(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Add tensors to model.safetensors, and remove those that are None."""
    path = folder / "model.safetensors"
    values = {name: tensor for name, tensor in (load_file(path) | tensors).items() if tensor is not None}
    save_file(values, path, metadata={"format": "pt"})
    return folder


# Two sets of weights


@pytest.mark.parametrize("is_pickle", [False, True], ids=["safetensors", "bin"])
def test_a_single_file_is_read_before_an_index_as_transformers_does(tmp_path: Path, is_pickle: bool) -> None:
    old, new = (random_weights(TINY_DENSE, seed=seed, dtype=torch.float32) for seed in (1, 2))
    folder = write_gpt2(tmp_path / "m", old, num_files=2, is_pickle=is_pickle)
    write_files(folder, gpt2_weights(new, TINY_DENSE), is_pickle=is_pickle)
    expected = loaded(write_gpt2(tmp_path / "new", new, is_pickle=is_pickle))
    assert torch.equal(loaded(folder), expected)
    single = "pytorch_model.bin" if is_pickle else "model.safetensors"
    (notice,) = describe(str(folder)).notices
    assert f"read from {single}" in notice
    assert f"{single}.index.json beside it" in notice
    converted = convert(str(folder), str(tmp_path / "out"))
    assert converted.notices == (notice,)
    assert torch.equal(loaded(tmp_path / "out"), expected)


def test_safetensors_are_read_before_a_pickle_and_the_pickle_is_named(tmp_path: Path) -> None:
    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE, seed=1))
    write_files(folder, gpt2_weights(random_weights(TINY_DENSE, seed=2), TINY_DENSE), is_pickle=True)
    (notice,) = describe(str(folder)).notices
    assert "pytorch_model.bin beside it may differ" in notice


def test_a_shard_that_the_index_does_not_name_is_named(tmp_path: Path) -> None:
    folder = write_native(tmp_path / "m", random_weights(TINY), num_files=2)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00003-of-00003.safetensors")
    (notice,) = describe(str(folder)).notices
    assert "model-00003-of-00003.safetensors" in notice


def test_a_tensor_that_two_shards_hold_must_be_the_same(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    folder = write_native(tmp_path / "m", weights, num_files=2)
    second = folder / "model-00002-of-00002.safetensors"
    name = next(iter(load_file(folder / "model-00001-of-00002.safetensors")))
    save_file(load_file(second) | {name: weights[name]}, second)
    assert describe(str(folder)).notices == ()
    save_file(load_file(second) | {name: weights[name] + 1}, second)
    assert f"hold different tensors of the name {name}" in refusal(folder)


def test_a_tensor_that_the_index_does_not_list_is_read_as_transformers_does(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    folder = write_native(tmp_path / "m", weights, num_files=2)
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    del weight_map["model.norm.bias"]
    write_json(index, {"weight_map": weight_map})
    assert torch.equal(open_checkpoint(str(folder)).read("model.norm.bias"), weights["model.norm.bias"])


def test_two_trackers_that_name_different_checkpoints_are_named(tmp_path: Path) -> None:
    folder = write_rugpts(tmp_path / "m", random_weights(TINY))
    shutil.copytree(folder / "100", folder / "200")
    (folder / "latest").write_text("200")
    (notice,) = describe(str(folder)).notices
    assert "is read from" in notice
    assert f"that of {folder / '200'}" in notice


def test_ranks_of_different_saves_are_named(tmp_path: Path) -> None:
    folder = write_rugpts(tmp_path / "m", random_weights(TINY), mp=2)
    other = rank_weights(random_weights(TINY, seed=5), TINY, rank=1, mp=2)
    torch.save({"module": other}, folder / "100" / "mp_rank_01_model_states.pt")
    (notice,) = describe(str(folder)).notices
    assert "may be of different saves" in notice


# An output embedding of its own


@pytest.mark.parametrize("said", [None, True, False])
def test_an_own_lm_head_of_a_gpt2_is_used_whatever_the_config_says(tmp_path: Path, said: bool | None) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE, dtype=torch.float32))
    change_json(folder / "config.json", tie_word_embeddings=said)
    add_tensors(folder, **{"lm_head.weight": torch.randn(48, 32)})
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.testing.assert_close(loaded(folder), logits(theirs), atol=1e-5, rtol=1e-5)
    notices = describe(str(folder)).notices
    assert [("lm_head.weight of its own, which is used" in notice) for notice in notices] == [True] * (
        said is not False
    )


@pytest.mark.parametrize("write", [write_native, lambda folder, weights: write_port(folder, weights, TINY)])
def test_an_own_lm_head_of_a_sparse_model_is_used(tmp_path: Path, write: Callable[[Path, Weights], Path]) -> None:
    weights = random_weights(TINY) | {"lm_head.weight": random_weights(UNTIED)["lm_head.weight"]}
    folder = write(tmp_path / "m", weights)
    change_json(folder / "config.json", tie_word_embeddings=True)
    assert torch.equal(open_checkpoint(str(folder)).read("lm_head.weight"), weights["lm_head.weight"])


def test_a_copy_of_the_embedding_is_not_kept_as_a_head(tmp_path: Path) -> None:
    weights = random_weights(TINY_DENSE)
    folder = write_gpt2(tmp_path / "m", weights)
    add_tensors(folder, **{"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    summary = describe(str(folder))
    assert summary.config == TINY_DENSE
    assert summary.notices == ()


@pytest.mark.parametrize("name", ["output_layer.weight", "word_embeddings_for_head.weight"])
def test_an_own_output_layer_of_megatron_is_merged_over_the_ranks(tmp_path: Path, name: str) -> None:
    weights = random_weights(UNTIED)
    folder = write_rugpts(tmp_path / "m", weights, mp=2)
    for rank in range(2):
        values = rank_weights(weights, TINY, rank=rank, mp=2)
        values[name] = weights["lm_head.weight"].chunk(2)[rank].clone()
        torch.save({"module": values}, folder / "100" / f"mp_rank_{rank:02d}_model_states.pt")
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.config == replace(UNTIED, layout_groups=2)
    assert torch.equal(checkpoint.read("lm_head.weight"), weights["lm_head.weight"])


# Tensors that nobody uses


def test_buffers_that_hold_no_knowledge_pass_without_a_word(tmp_path: Path) -> None:
    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE))
    buffers = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64), "transformer.h.1.attn.masked_bias": torch.ones(1)}
    add_tensors(folder, **buffers)
    assert describe(str(folder)).notices == ()


@pytest.mark.parametrize("write", [write_gpt2, write_native, lambda folder, _: write_llama(folder)])
def test_other_unused_tensors_are_named_in_one_notice(tmp_path: Path, write: Callable[[Path, Weights], Path]) -> None:
    config = TINY if write is write_native else TINY_DENSE
    folder = write(tmp_path / "m", random_weights(config))
    add_tensors(folder, **{f"extra.{letter}": torch.ones(2) for letter in "abcde"})
    (notice,) = describe(str(folder)).notices
    assert "does not use extra.a, extra.b, extra.c and 2 more" in notice


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("score.weight", "a head that this model does not have"),
        ("v_head.summary.weight", "a head that this model does not have"),
        ("lm_head.bias", "a head that this model does not have"),
        ("transformer.h.0.attn.c_attn.lora_A.default.weight", "an adapter; merge it"),
        ("transformer.h.0.mlp.c_fc.qweight", "a quantised weight"),
        ("transformer.h.0.attn.q_norm.weight", "a part of a layer"),
        ("model.layers.7.mlp.up_proj.weight", "a part of a layer"),
    ],
)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_unused_tensors_that_carry_meaning_are_refused(tmp_path: Path, kind: str, name: str, words: str) -> None:
    folder = tmp_path / "m"
    folder = write_llama(folder) if kind == "llama" else write_gpt2(folder, random_weights(TINY_DENSE))
    sentence = refusal(add_tensors(folder, **{name: torch.ones(2)}))
    assert name in sentence
    assert words in sentence


# Missing tensors


def test_a_foreign_model_with_missing_tensors_is_refused_when_planned_and_when_loaded(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    names = sorted(name for name in load_file(folder / "model.safetensors") if "layers.1." in name)
    add_tensors(folder, **dict.fromkeys(names))
    for read in (describe, load_pretrained):
        with pytest.raises(
            CheckpointError, match=f"no tensor {names[0]}, {names[1]}, {names[2]} and {len(names) - 3} more"
        ):
            read(str(folder))


def test_a_foreign_tensor_of_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    folder = add_tensors(write_llama(tmp_path / "m"), **{"model.norm.weight": torch.ones(16)})
    assert "holds model.norm.weight with the shape [16], but config.json requires [32]" in refusal(folder)


def test_a_foreign_weight_of_integers_is_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    add_tensors(folder, **{"model.layers.0.mlp.up_proj.weight": torch.ones(64, 32, dtype=torch.int8)})
    assert "model.layers.0.mlp.up_proj.weight is stored as I8" in refusal(folder)
