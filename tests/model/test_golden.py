"""The original's own logits, from its own checkpoints: by one forward and by the engine's cache, token by token.

The comparison can fail: each slightly wrong pattern exceeds the tolerance by far.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tirazh.model.attention import block_layout
from tirazh.model.attention.backends import choose
from tirazh.model.attention.backends.plain import PlainBackend
from tirazh.model.attention.kv_cache import LayerCache
from tirazh.model.config import ModelConfig, ModelSettings
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.load import load_pretrained
from tirazh.model.step import FreshSlot

CASES = ("all_sparse_mp1", "hf_port_alternating", "xl_alternating_mp1", "xl_alternating_mp2")
TOLERANCE = 2e-4
LARGE_ERROR = 50 * TOLERANCE
ROWS = 128
DRIFT = {"bfloat16": 0.03, "float16": 0.004}  # largest error, as a share of the largest logit


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, golden_dir: Path) -> Path:
    return golden_dir / str(request.param)


def reference(case: Path) -> tuple[Tensor, Tensor]:
    """The original's tokens [rows, length] and logits [rows, length, vocab]."""
    tensors = load_file(case / "reference.safetensors")
    return tensors["tokens"], tensors["logits"]


def forward_error(case: Path, model: nn.Module | None = None) -> float:
    tokens, expected = reference(case)
    with torch.inference_mode():
        logits = (model or load_pretrained(str(case)))(tokens).logits
    return float((logits - expected).abs().max())


def engine_error(case: Path, prompt_lengths: tuple[int, ...], num_tokens: int, dtype: str = "float32") -> float:
    """Every row in a slot of its own: its prompt prefilled window by window, the rest fed token by token, by the
    implementations that a job uses."""
    tokens, expected = reference(case)
    model = load_pretrained(str(case), dtype=dtype)
    pack_linears(model, rows=ROWS)
    runner = ModelRunner(model, num_slots=len(tokens), max_length=tokens.shape[1])
    logits = torch.full_like(expected, torch.inf)
    for slot, length in enumerate(prompt_lengths):
        fresh: tuple[FreshSlot, ...] = (FreshSlot(slot, uses_prefix=False),)
        for start in range(0, length, runner.window_size):
            chunk = tokens[slot, start : min(length, start + runner.window_size)].tolist()
            builder = StepBuilder("prefill", ROWS)
            builder.add(slot, chunk, start)
            builder.request_logits(slot, len(chunk))
            logits[slot, start : start + len(chunk)] = runner.execute(builder.build(fresh))
            fresh = ()
    for position in range(min(prompt_lengths), num_tokens):
        slots = [slot for slot, length in enumerate(prompt_lengths) if length <= position]
        builder = StepBuilder("decode", len(tokens))
        for slot in slots:
            builder.row = slot
            builder.add(slot, [int(tokens[slot, position])], position)
            builder.request_logits(slot, 1)
        logits[slots, position] = runner.execute(builder.build(()))
    return float((logits - expected)[:, :num_tokens].abs().max())


def test_one_forward_gives_the_originals_logits(case: Path) -> None:
    assert forward_error(case) < TOLERANCE


def test_prefill_of_everything_gives_the_originals_logits(case: Path) -> None:
    assert engine_error(case, (512, 512), 512) < TOLERANCE


def test_prefill_and_then_decoding_token_by_token_gives_the_originals_logits(case: Path) -> None:
    assert engine_error(case, (100, 129), 512) < TOLERANCE


def test_decoding_alone_gives_the_originals_logits(golden_dir: Path) -> None:
    assert engine_error(golden_dir / "xl_alternating_mp2", (1, 1), 300) < TOLERANCE


# Slightly wrong patterns


def shift_by_one_block(patch: pytest.MonkeyPatch) -> None:
    true = block_layout.first_global_block
    patch.setattr(block_layout, "first_global_block", lambda head, pattern: max(0, true(head, pattern) - 1))


def invert_alternation(patch: pytest.MonkeyPatch) -> None:
    true = ModelConfig.is_sparse_layer
    patch.setattr(ModelConfig, "is_sparse_layer", lambda config, layer: not true(config, layer))


def make_every_layer_sparse(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ModelConfig, "is_sparse_layer", lambda config, layer: True)


def make_every_layer_dense(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ModelConfig, "is_sparse_layer", lambda config, layer: False)


def give_every_head_the_same_layout(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(block_layout, "head_pattern", lambda *_: 0)


def ignore_layout_groups(patch: pytest.MonkeyPatch) -> None:
    true = block_layout.head_pattern
    patch.setattr(block_layout, "head_pattern", lambda head, heads, groups, pattern: true(head, heads, 1, pattern))


Mutation = Callable[[pytest.MonkeyPatch], None]
MUTATIONS: list[tuple[str, Mutation]] = [
    *((name, shift_by_one_block) for name in CASES),
    *((name, invert_alternation) for name in CASES),
    *((name, make_every_layer_dense) for name in CASES),
    *((name, make_every_layer_sparse) for name in CASES if "alternating" in name),
    *((name, give_every_head_the_same_layout) for name in CASES),
    ("xl_alternating_mp2", ignore_layout_groups),
]


@pytest.mark.parametrize(
    ("name", "mutate"), MUTATIONS, ids=[f"{name}, {mutate.__name__}" for name, mutate in MUTATIONS]
)
def test_a_wrong_pattern_exceeds_the_tolerance_by_far(
    golden_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, mutate: Mutation
) -> None:
    mutate(monkeypatch)
    assert forward_error(golden_dir / name) > LARGE_ERROR


def test_a_wrong_number_of_layout_groups_exceeds_the_tolerance_by_far(golden_dir: Path) -> None:
    """A user makes this mistake by omitting --fix-sparsity-layout or giving a wrong number."""
    folder = golden_dir / "xl_alternating_mp2"
    model = load_pretrained(str(folder), settings=ModelSettings(fix_sparsity_layout=1))
    assert forward_error(folder, model) > LARGE_ERROR


def test_a_cache_that_keeps_the_same_tokens_for_every_head_exceeds_the_tolerance_by_far(
    golden_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = LayerCache.__init__

    def start_alike(cache: LayerCache, *arguments: Any, **more: Any) -> None:
        true(cache, *arguments, **more)
        cache.global_starts_H = cache.global_starts_H * 0

    monkeypatch.setattr(LayerCache, "__init__", start_alike)
    assert engine_error(golden_dir / "xl_alternating_mp1", (150, 100), 200) > LARGE_ERROR


def test_a_cache_that_never_closes_its_windows_exceeds_the_tolerance_by_far(
    golden_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "BACKENDS", (PlainBackend(),))  # the C kernel closes windows by itself
    monkeypatch.setattr(LayerCache, "close_window", lambda *_: None)
    assert engine_error(golden_dir / "all_sparse_mp1", (60, 100), 200) > LARGE_ERROR


@pytest.mark.parametrize("dtype", DRIFT)
def test_narrow_arithmetic_drifts_no_further_than_its_precision(case: Path, dtype: str) -> None:
    """Compare prefill and decode with the original's float32 logits. Measured: 0.018 and 0.0018 at most."""
    _, expected = reference(case)
    assert engine_error(case, (256, 200), 260, dtype) / float(expected.abs().max()) < DRIFT[dtype]
