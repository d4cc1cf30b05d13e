"""Resolving the settings of a checkpoint: which source gives heads, sparse mode, pattern and layout groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.model.checkpoints.samples import (
    TINY,
    TINY_DENSE,
    change_json,
    random_weights,
    sparse_attention,
    write_gpt2,
    write_json,
    write_llama,
    write_native,
    write_port,
    write_rugpts,
)
from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import describe
from tirazh.model.config import PRESETS, ModelConfig, ModelSettings, Preset, SparsePattern

XL_PATTERN = SparsePattern()


@pytest.fixture
def rugpts(tmp_path: Path) -> Path:
    return write_rugpts(tmp_path / "model", random_weights(TINY), mp=2)


def config_of(folder: Path, **settings: Any) -> ModelConfig:
    config = describe(str(folder), ModelSettings(**settings)).config
    assert config is not None
    return config


def remove_settings_files(folder: Path) -> None:
    """Remove the files beside the checkpoint that describe it."""
    (folder / "model_args.json").unlink()
    (folder / "deepspeed_config.json").unlink()


def test_files_beside_the_checkpoint_give_all_settings(rugpts: Path) -> None:
    assert config_of(rugpts) == replace(TINY, layout_groups=2)


def test_a_flag_overrides_the_files(rugpts: Path) -> None:
    config = config_of(rugpts, sparse_mode="all", num_attention_heads=8, fix_sparsity_layout=4)
    assert (config.sparse_mode, config.num_attention_heads, config.layout_groups) == ("all", 8, 4)
    assert config.sparse_pattern == TINY.sparse_pattern


def test_flags_alone_are_enough_and_imply_the_published_pattern(rugpts: Path) -> None:
    remove_settings_files(rugpts)
    config = config_of(rugpts, sparse_mode="alternating", num_attention_heads=4)
    assert (config.sparse_pattern, config.layout_groups) == (XL_PATTERN, 2)


def test_the_deepspeed_flag_overrides_the_file_beside_the_checkpoint(rugpts: Path, tmp_path: Path) -> None:
    other = replace(TINY, sparse_pattern=SparsePattern(block_size=8, num_different_global_patterns=2))
    write_json(tmp_path / "other.json", {"sparse_attention": sparse_attention(other)})
    assert config_of(rugpts, deepspeed_config=str(tmp_path / "other.json")).sparse_pattern == other.sparse_pattern


def test_model_args_can_set_the_layout_groups(rugpts: Path) -> None:
    change_json(rugpts / "model_args.json", fix_sparsity_layout=4)
    assert config_of(rugpts).layout_groups == 4


def test_sparse_mode_none_makes_a_checkpoint_dense(rugpts: Path) -> None:
    remove_settings_files(rugpts)
    assert config_of(rugpts, sparse_mode="none", num_attention_heads=4).sparse_mode == "none"


def test_a_preset_gives_heads_and_mode(rugpts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_settings_files(rugpts)
    small = Preset(num_layers=2, hidden_size=32, num_attention_heads=4, layout_groups=4)
    monkeypatch.setitem(PRESETS, "rugpt3xl", small)
    config = config_of(rugpts, preset="rugpt3xl")
    assert (config.sparse_mode, config.num_attention_heads, config.layout_groups) == ("alternating", 4, 4)


def test_missing_keys_of_a_deepspeed_json_take_deepspeeds_defaults(rugpts: Path) -> None:
    write_json(rugpts / "deepspeed_config.json", {"sparse_attention": {"mode": "fixed", "attention": "unidirectional"}})
    assert config_of(rugpts).sparse_pattern == SparsePattern(
        num_local_blocks=4, num_different_global_patterns=1, different_layout_per_head=False
    )


def test_a_checkpoint_without_a_sparse_mode_is_refused(rugpts: Path) -> None:
    change_json(rugpts / "model_args.json", sparse_mode=None)
    with pytest.raises(CheckpointError, match="--sparse-mode"):
        config_of(rugpts)


def test_a_deepspeed_json_without_the_key_contradicts_a_sparse_mode(rugpts: Path) -> None:
    write_json(rugpts / "deepspeed_config.json", {"fp16": {"enabled": True}})
    with pytest.raises(CheckpointError, match="no sparse_attention key"):
        config_of(rugpts)
    assert config_of(rugpts, sparse_mode="none").sparse_mode == "none"


@pytest.mark.parametrize("mode", ["dense", "variable", "bigbird", "bslongformer", "local"])
def test_other_patterns_of_deepspeed_are_refused_by_name(rugpts: Path, mode: str) -> None:
    write_json(rugpts / "deepspeed_config.json", {"sparse_attention": {"mode": mode, "num_random_blocks": 1}})
    with pytest.raises(CheckpointError, match=f"mode is '{mode}'; the only supported pattern is 'fixed'"):
        config_of(rugpts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention": "bidirectional"}, "attention is 'bidirectional'; only 'unidirectional' is supported"),
        ({"attention": None}, "attention is 'bidirectional' by default; only 'unidirectional'"),
        ({"horizontal_global_attention": True}, "horizontal_global_attention is True"),
        ({"num_local_block": 4}, "unknown key 'num_local_block'; did you mean num_local_blocks?"),
        ({"block": "16"}, "block must be int, not '16'"),
        ({"different_layout_per_head": 1}, "different_layout_per_head must be bool, not 1"),
        ({"num_global_blocks": 3}, "must be a multiple of num_global_blocks (3)"),
        ({"block": 0}, "block_size must be at least 1"),
    ],
)
def test_wrong_pattern_keys_are_refused_with_the_file(rugpts: Path, change: Mapping[str, object], words: str) -> None:
    values = {key: value for key, value in (sparse_attention(TINY) | change).items() if value is not None}
    write_json(rugpts / "deepspeed_config.json", {"sparse_attention": values})
    with pytest.raises(CheckpointError) as caught:
        config_of(rugpts)
    assert words in str(caught.value)
    assert str(rugpts / "deepspeed_config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"sparse_mode": "alternatin"},
            "top_bottom, not 'alternatin'; did you mean alternating?",
        ),
        (
            {"preset": "rugpt3-13B"},
            "--preset must be one of rugpt3xl, rugpt3-13b, not 'rugpt3-13B'; did you mean rugpt3-13b?",
        ),
        ({"preset": "rugpt3xl"}, "--preset rugpt3xl says num_layers 24, but the weights in"),
        ({"num_attention_heads": 0}, "--num-attention-heads must be at least 1"),
        ({"num_attention_heads": 5}, "not a multiple of 5 attention heads"),
        ({"fix_sparsity_layout": 3}, "cannot be split into 3 layout groups"),
        ({"deepspeed_config": "nowhere.json"}, "no file nowhere.json"),
    ],
)
def test_wrong_model_settings_are_refused(rugpts: Path, settings: Mapping[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        config_of(rugpts, **settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sparse_mode": "all"}, "says sparse mode alternating itself, but --sparse-mode says sparse mode all"),
        ({"num_attention_heads": 8}, "says 4 attention heads itself"),
        ({"fix_sparsity_layout": 2}, "says 1 layout groups itself"),
        ({"preset": "rugpt3xl"}, "but --preset rugpt3xl says 16 attention heads"),
    ],
)
def test_a_flag_that_contradicts_a_tirazh_directory_is_refused(
    tmp_path: Path, settings: Mapping[str, Any], words: str
) -> None:
    folder = write_native(tmp_path / "m", random_weights(TINY))
    with pytest.raises(CheckpointError) as caught:
        config_of(folder, **settings)
    assert words in str(caught.value)
    assert "leave the flag out" in str(caught.value)


def test_a_flag_that_repeats_the_directory_is_accepted(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    write_json(tmp_path / "ds.json", {"sparse_attention": sparse_attention(TINY)})
    settings: dict[str, Any] = {
        "sparse_mode": "alternating",
        "num_attention_heads": 4,
        "fix_sparsity_layout": 1,
        "deepspeed_config": str(tmp_path / "ds.json"),
    }
    assert config_of(write_native(tmp_path / "ours", weights), **settings) == TINY
    assert config_of(write_port(tmp_path / "port", weights, TINY), **settings) == TINY


def test_a_flag_cannot_make_a_dense_directory_sparse(tmp_path: Path) -> None:
    folder = write_gpt2(tmp_path / "m", random_weights(TINY_DENSE))
    assert config_of(folder, sparse_mode="none").sparse_mode == "none"
    write_json(tmp_path / "ds.json", {"sparse_attention": sparse_attention(TINY)})
    for settings in ({"sparse_mode": "alternating"}, {"deepspeed_config": str(tmp_path / "ds.json")}):
        with pytest.raises(CheckpointError, match="leave the flag out"):
            config_of(folder, **settings)


def test_a_sparse_flag_for_a_foreign_model_is_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    with pytest.raises(CheckpointError, match="is a llama model, to which --preset rugpt3xl cannot be applied"):
        describe(str(folder), ModelSettings(preset="rugpt3xl"))


def test_the_tokenizer_flag_replaces_a_missing_tokenizer(rugpts: Path, tmp_path: Path) -> None:
    assert describe(str(rugpts)).tokenizer_dir is None
    assert describe(str(rugpts), ModelSettings(tokenizer=str(tmp_path))).tokenizer_dir == str(tmp_path)
    (rugpts / "tokenizer.json").write_text("{}")
    assert describe(str(rugpts)).tokenizer_dir == str(rugpts)
