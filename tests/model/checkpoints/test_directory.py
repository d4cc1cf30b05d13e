"""Every checkpoint format gives back the weights, whole and in slices, and a summary of the model."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.checkpoints.samples import (
    TINY,
    TINY_DENSE,
    Weights,
    change_json,
    random_weights,
    rank_weights,
    write_gpt2,
    write_json,
    write_llama,
    write_native,
    write_port,
    write_rugpts,
)
from tirazh.model.checkpoints.directory import EMBEDDED_DIR, describe, open_checkpoint, resolve_model
from tirazh.model.config import ModelConfig

UNTIED = replace(TINY, tie_word_embeddings=False)
Writer = Callable[[Path, Weights], Path]

KINDS: dict[str, tuple[str, ModelConfig, Writer]] = {
    "ru-gpts, one rank": ("rugpts", TINY, write_rugpts),
    "ru-gpts, two ranks": ("rugpts", replace(TINY, layout_groups=2), lambda f, w: write_rugpts(f, w, mp=2)),
    "ru-gpts, four ranks": ("rugpts", replace(TINY, layout_groups=4), lambda f, w: write_rugpts(f, w, mp=4)),
    "ru-gpts, bare files": ("rugpts", TINY, lambda f, w: write_rugpts(f, w, layout="bare")),
    "ru-gpts, saved by torch 1.5": ("rugpts", TINY, lambda f, w: write_rugpts(f, w, layout="old")),
    "megatron": ("megatron", replace(TINY, layout_groups=2), lambda f, w: write_rugpts(f, w, mp=2, layout="megatron")),
    "megatron, released": ("megatron", TINY, lambda f, w: write_rugpts(f, w, layout="release")),
    "gpt2": ("gpt2", TINY_DENSE, write_gpt2),
    "gpt2 without the prefix": ("gpt2", TINY_DENSE, lambda f, w: write_gpt2(f, w, prefix="")),
    "gpt2 in three files": ("gpt2", TINY_DENSE, lambda f, w: write_gpt2(f, w, num_files=3)),
    "gpt2 pickled": ("gpt2", TINY_DENSE, lambda f, w: write_gpt2(f, w, is_pickle=True)),
    "gpt2 pickled in two files": ("gpt2", TINY_DENSE, lambda f, w: write_gpt2(f, w, is_pickle=True, num_files=2)),
    "port": ("port", UNTIED, lambda f, w: write_port(f, w, UNTIED)),
    "tirazh": ("tirazh", TINY, write_native),
    "tirazh, untied, in two files": ("tirazh", UNTIED, lambda f, w: write_native(f, w, UNTIED, num_files=2)),
}


@pytest.fixture(params=KINDS, ids=list(KINDS))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, ModelConfig, Weights]:
    kind, config, write = KINDS[request.param]
    weights = random_weights(config)
    return write(tmp_path / "model", weights), kind, config, weights


def test_every_format_restores_its_weights(case: tuple[Path, str, ModelConfig, Weights]) -> None:
    folder, kind, config, weights = case
    checkpoint = open_checkpoint(str(folder))
    assert (checkpoint.kind, checkpoint.config) == (kind, config)
    assert set(checkpoint.names()) == set(weights)
    for name, expected in weights.items():
        assert checkpoint.shape(name) == tuple(expected.shape)
        assert checkpoint.dtype(name) == "float16"
        assert torch.equal(checkpoint.read(name), expected), name


def test_every_format_reads_slices_of_every_dimension(case: tuple[Path, str, ModelConfig, Weights]) -> None:
    folder, _, _, weights = case
    checkpoint = open_checkpoint(str(folder))
    for name, expected in weights.items():
        for dim, size in enumerate(expected.shape):
            for start, stop in ((0, size // 2), (size // 2, size), (size // 3, size // 3)):
                part = checkpoint.read(name, dim, start, stop)
                assert torch.equal(part, expected.narrow(dim, start, stop - start)), (name, dim, start, stop)


def test_summary_describes_the_model_and_counts_the_bytes_of_its_tensors(
    case: tuple[Path, str, ModelConfig, Weights],
) -> None:
    folder, kind, config, weights = case
    summary = describe(str(folder))
    assert (summary.kind, summary.config, summary.tokenizer_dir) == (kind, config, None)
    assert summary.weight_bytes == sum(tensor.nbytes for tensor in weights.values())
    assert (summary.positions, summary.num_attention_heads) == (64, 4)


def test_a_slice_outside_the_tensor_raises_value_error(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_native(tmp_path / "m", random_weights(TINY))))
    with pytest.raises(ValueError, match="outside dimension 0"):
        checkpoint.read("model.norm.weight", 0, 0, 33)


def test_foreign_models_keep_their_tensor_names(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_llama(tmp_path / "llama")))
    assert (checkpoint.kind, checkpoint.config) == ("transformers", None)
    assert checkpoint.read("model.layers.0.mlp.down_proj.weight", 1, 0, 5).shape == (32, 5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (2048, 4)),
        ({"max_position_embeddings": 512, "n_positions": 256}, (512, 4)),
        ({"max_position_embeddings": None, "n_positions": 256}, (256, 4)),
        ({"max_position_embeddings": None}, (None, 4)),
        ({"max_position_embeddings": "long"}, (None, 4)),
        ({"num_attention_heads": None, "n_head": 6}, (2048, 6)),
        ({"num_attention_heads": None}, (2048, None)),
    ],
)
def test_a_foreign_model_has_the_positions_and_heads_of_its_config(
    tmp_path: Path, change: dict[str, object], expected: tuple[int | None, int | None]
) -> None:
    folder = write_llama(tmp_path / "llama")
    change_json(folder / "config.json", **change)
    model = open_checkpoint(str(folder)).model
    assert (model.max_position_embeddings, model.num_attention_heads) == expected


@pytest.mark.parametrize("change", [{"activation_function": "relu"}, {"n_inner": 64}])
def test_a_gpt2_with_other_arithmetic_is_left_to_transformers(tmp_path: Path, change: dict[str, object]) -> None:
    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE), **change)
    assert open_checkpoint(str(folder)).kind == "transformers"


@pytest.mark.parametrize("write", [write_native, write_gpt2, lambda f, w: write_port(f, w, TINY)])
def test_describing_safetensors_imports_no_torch(tmp_path: Path, write: Writer) -> None:
    folder = write(tmp_path / "m", random_weights(TINY))
    code = (
        "import sys; from tirazh.model.checkpoints.directory import describe; "
        "describe(sys.argv[1]); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_fingerprint_depends_on_config_and_weights_but_not_on_the_path(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    first = describe(str(write_native(tmp_path / "a", weights))).fingerprint
    assert describe(str(write_native(tmp_path / "b", weights))).fingerprint == first
    other_mode = replace(TINY, sparse_mode="all")
    assert describe(str(write_native(tmp_path / "c", weights, other_mode))).fingerprint != first
    weights["model.norm.bias"] = weights["model.norm.bias"] + 1
    assert describe(str(write_native(tmp_path / "d", weights))).fingerprint != first
    assert len(first) == 16
    assert set(first) <= set("0123456789abcdef")


def test_fingerprint_covers_both_ends_of_a_large_file(tmp_path: Path) -> None:
    config = replace(TINY, vocab_size=60_000)
    folder = write_native(tmp_path / "m", random_weights(config), config)
    path = folder / "model.safetensors"
    size = path.stat().st_size
    assert size > 3 << 20
    seen = {describe(str(folder)).fingerprint}
    for place in (size // 4, size - 1):  # the first MiB holds the quarter, the last one the end
        with path.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))
        seen.add(describe(str(folder)).fingerprint)
    assert len(seen) == 3


def test_wrapper_prefixes_and_optimizer_state_are_ignored(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    folder = write_rugpts(tmp_path / "m", weights)
    wrapped = {f"module.module.{name}": tensor for name, tensor in rank_weights(weights, TINY, rank=0, mp=1).items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(7)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({"module": wrapped, "optimizer": optimizer}, folder / "100" / "mp_rank_00_model_states.pt")
    checkpoint = open_checkpoint(str(folder))
    assert torch.equal(checkpoint.read("model.norm.weight"), weights["model.norm.weight"])


def test_bookkeeping_of_a_training_run_is_ignored(tmp_path: Path) -> None:
    extra = {
        "args": argparse.Namespace(num_layers=2, lr=0.1),
        "np_rng_state": np.random.RandomState(0).get_state(),
        "torch_rng_state": torch.get_rng_state(),
    }
    weights = random_weights(TINY)
    folder = write_rugpts(tmp_path / "m", weights, layout="megatron", extra=extra)
    assert torch.equal(open_checkpoint(str(folder)).read("model.norm.weight"), weights["model.norm.weight"])


def test_megatron_version_3_nests_names_and_orders_rows_by_head(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    folder = write_rugpts(tmp_path / "m", weights, layout="megatron")
    flat = rank_weights(weights, TINY, rank=0, mp=1)
    encoder = {}
    for name, tensor in flat.items():
        if name.startswith("transformer."):
            short = name.removeprefix("transformer.").replace(".attention.", ".self_attention.")
            if "query_key_value" in short:
                tensor = tensor.unflatten(0, (3, TINY.num_attention_heads, TINY.head_dim)).transpose(0, 1).flatten(0, 2)
            encoder[short] = tensor
    embedding = {
        "word_embeddings": {"weight": flat["word_embeddings.weight"]},
        "position_embeddings": {"weight": flat["position_embeddings.weight"]},
    }
    values = {
        "model": {"language_model": {"embedding": embedding, "encoder": encoder}},
        "checkpoint_version": 3.0,
    }
    torch.save(values, folder / "iter_0000100" / "mp_rank_00" / "model_optim_rng.pt")
    checkpoint = open_checkpoint(str(folder))
    for name, expected in weights.items():
        assert torch.equal(checkpoint.read(name), expected), name


def test_an_untied_output_embedding_of_the_port_is_read(tmp_path: Path) -> None:
    weights = random_weights(UNTIED)
    checkpoint = open_checkpoint(str(write_port(tmp_path / "m", weights, UNTIED)))
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert torch.equal(checkpoint.read("lm_head.weight"), weights["lm_head.weight"])


def test_weights_may_be_symbolic_links_as_in_a_hub_cache(tmp_path: Path) -> None:
    folder = write_native(tmp_path / "snapshot", random_weights(TINY))
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to("../blob")
    assert describe(str(folder)).kind == "tirazh"


def test_a_ru_gpts_directory_may_have_a_config_json_beside_it(tmp_path: Path) -> None:
    folder = write_rugpts(tmp_path / "m", random_weights(TINY), layout="bare")
    write_json(folder / "config.json", {"model_type": "gpt2"})
    assert describe(str(folder)).kind == "rugpts"


def test_the_inner_directory_of_a_tracked_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    folder = write_rugpts(tmp_path / "m", random_weights(TINY))
    assert describe(str(folder / "100")).fingerprint == describe(str(folder)).fingerprint


def test_a_model_name_resolves_to_its_directory() -> None:
    assert resolve_model("embedded") == EMBEDDED_DIR
    assert resolve_model("models/xl") == "models/xl"
    assert resolve_model("~/xl") == str(Path.home() / "xl")


def test_golden_checkpoints_are_described(golden_dir: Path) -> None:
    found = {name: describe(str(golden_dir / name)) for name in ("all_sparse_mp1", "xl_alternating_mp2")}
    sparse, xl = (summary.config for summary in found.values())
    assert sparse is not None
    assert xl is not None
    assert (sparse.sparse_mode, sparse.sparse_pattern.num_local_blocks, sparse.layout_groups) == ("all", 4, 1)
    assert (xl.sparse_mode, xl.num_attention_heads, xl.vocab_size, xl.layout_groups) == ("alternating", 12, 320, 2)
    assert xl.sparse_pattern.num_local_blocks == 8
