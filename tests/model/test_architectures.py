"""Which models the engine runs: decided from config.json alone, and the same in docs/models.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tirazh.errors import CheckpointError, RequestError
from tirazh.model.architectures import (
    FAMILIES,
    REFUSED,
    check_family,
    check_tensor_parallel,
    longest_exact_sequence,
)
from tirazh.model.checkpoints.directory import describe, open_checkpoint

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
SPLIT = [family.model_type for family in FAMILIES if family.unsplit is None]
UNSPLIT = [family.model_type for family in FAMILIES if family.unsplit is not None]


@pytest.mark.parametrize("model_type", [family.model_type for family in FAMILIES])
def test_a_family_on_the_list_is_accepted(model_type: str) -> None:
    assert check_family({"model_type": model_type}).model_type == model_type


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_model_that_cannot_be_run_is_refused_by_name_with_the_reason(model_type: str) -> None:
    with pytest.raises(
        CheckpointError, match=re.escape(f"model_type {model_type} cannot be run: {REFUSED[model_type]}")
    ):
        check_family({"model_type": model_type})


def test_a_model_that_nobody_has_heard_of_is_refused_too() -> None:
    with pytest.raises(CheckpointError, match="model_type vaporware cannot be run: it is not on the list of those"):
        check_family({"model_type": "vaporware"})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"quantization_config": {"bits": 4}}, "its weights are quantised"),
        ({"add_cross_attention": True}, "attends to an encoder"),
        ({"use_bidirectional_attention": True}, "its attention is not causal"),
        ({"is_causal": False}, "its attention is not causal"),
    ],
)
def test_a_variant_that_cannot_be_run_is_refused_though_its_family_can(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        check_family({"model_type": "llama"} | values)


@pytest.mark.parametrize("model_type", SPLIT)
def test_a_family_that_splits_takes_ranks_that_divide_its_heads(model_type: str) -> None:
    values = {"model_type": model_type, "num_attention_heads": 4, "num_key_value_heads": 2}
    check_tensor_parallel(values, 2)
    with pytest.raises(RequestError, match="--tensor-parallel 4 does not divide the 2 of num_key_value_heads"):
        check_tensor_parallel(values, 4)


@pytest.mark.parametrize("model_type", UNSPLIT)
def test_a_family_that_does_not_split_is_refused_on_two_ranks_and_runs_on_one(model_type: str) -> None:
    check_tensor_parallel({"model_type": model_type}, 1)
    with pytest.raises(RequestError, match=f"model_type {model_type} cannot be split over --tensor-parallel 2 ranks"):
        check_tensor_parallel({"model_type": model_type}, 2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rope_scaling": None}, None),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, None),
        ({"rope_parameters": {"rope_type": "llama3", "original_max_position_embeddings": 64}}, None),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, 512),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, 512),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 128}, 128),
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 64}}, 64),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}}, 512),
    ],
)
def test_a_rope_that_looks_at_the_longest_row_limits_the_length(values: dict[str, Any], expected: int | None) -> None:
    longest = longest_exact_sequence({"max_position_embeddings": 512} | values)
    assert (None if longest is None else longest.num_tokens) == expected


def test_the_limit_is_what_planning_takes_for_the_positions_of_the_model(tmp_path: Path) -> None:
    values = {
        "model_type": "phi3",
        "max_position_embeddings": 512,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [4.0]},
        "original_max_position_embeddings": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    _write_weights(tmp_path)
    assert open_checkpoint(str(tmp_path)).model.max_position_embeddings == 64


def test_a_refused_model_is_refused_when_its_directory_is_opened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gptj"}))
    with pytest.raises(CheckpointError, match="model_type gptj cannot be run: its code computes attention by itself"):
        describe(str(tmp_path))


def test_the_page_lists_every_family_and_every_refusal() -> None:
    for family in FAMILIES:
        split = "yes" if family.unsplit is None else f"no: {family.unsplit}"
        assert f"| `{family.model_type}` | {family.title} | {split} | {family.note} |" in PAGE
    for model_type, reason in REFUSED.items():
        assert f"| `{model_type}` | {reason} |" in PAGE


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"quantization_config": {"bits": 4}},
            "quantised models are not supported, give the model in float16, bfloat16 or float32",
        ),
        (
            {"compression_config": {"bits": 4}},
            "quantised models are not supported, give the model in float16, bfloat16 or float32",
        ),
        ({"add_cross_attention": True}, "it attends to an encoder as well"),
        ({"is_encoder_decoder": True}, "only decoders (causal language models) can be run"),
        ({"is_causal": False}, "its attention is not causal"),
        ({"use_bidirectional_attention": True}, "its attention is not causal"),
        ({"model_type": "unheard"}, "it is not on the list of those that are tested against transformers"),
    ],
    ids=str,
)
def test_the_page_says_what_the_refusal_of_a_variant_says(
    values: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | values))
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        describe(str(tmp_path))
    assert sentence in PAGE


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_the_page_has_the_reason_of_a_rope_of_the_longest_row(rope_type: str) -> None:
    longest = longest_exact_sequence({"max_position_embeddings": 64, "rope_scaling": {"type": rope_type}})
    assert longest is not None
    assert f"| {longest.reason} |" in PAGE


def _write_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"model.norm.weight": torch.ones(2)}, folder / "model.safetensors")
