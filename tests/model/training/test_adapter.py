"""peft loads an adapter onto the base model as transformers opens it, and both together equal the merged model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import tirazh.transformers  # noqa: F401 - a sparse base needs it
from tests.model.training.trained import DENSE, SPARSE, export_trained, save_checkpoint, trained_weights, write_base
from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.config import ModelConfig, expected_shapes
from tirazh.model.load import load_pretrained
from tirazh.model.training.adapter import write_adapter
from tirazh.model.training.config import LORA_TARGETS, LoraSettings

ALL = LoraSettings(rank=3, alpha=12.0, targets=LORA_TARGETS)


def matrices(config: ModelConfig, lora: LoraSettings) -> dict[str, torch.Tensor]:
    """LoRA matrices of every target, by the names under which a checkpoint holds them."""
    generator, found = torch.Generator().manual_seed(4), {}
    for name, shape in expected_shapes(config).items():
        module, _, part = name.rpartition(".")
        if part == "weight" and module.rpartition(".")[2] in lora.targets:
            for letter, size in (("A", (lora.rank, shape[1])), ("B", (shape[0], lora.rank))):
                found[f"{module}.lora_{letter}.default.weight"] = torch.randn(size, generator=generator) * 0.2
    return found


@pytest.mark.parametrize(
    ("config", "is_gpt2", "targets"),
    [
        (DENSE, True, LORA_TARGETS),
        (DENSE, True, ("v_proj", "q_proj")),
        (DENSE, True, ("o_proj", "down_proj")),
        (DENSE, False, ("q_proj", "up_proj")),
        (SPARSE, False, LORA_TARGETS),
    ],
    ids=["gpt2-all", "gpt2-fused", "gpt2-plain", "dense", "sparse"],
)
def test_base_and_adapter_equal_the_merged_model(
    config: ModelConfig, is_gpt2: bool, targets: tuple[str, ...], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra `train`")
    lora = LoraSettings(rank=3, alpha=12.0, targets=targets)
    base = write_base(tmp_path / "base", config, is_gpt2=is_gpt2)
    weights = matrices(config, lora)
    merged = load_pretrained(str(export_trained(tmp_path / "merged", base, weights, lora=lora)))
    checkpoint = save_checkpoint(tmp_path / "checkpoints", weights)
    write_adapter(tmp_path / "adapter", open_checkpoint(str(base)), checkpoint, lora)
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        before = plain(ids).logits
        adapted: Any = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
        after, expected = adapted(ids).logits, merged(ids).logits
    assert float((after - expected).abs().max()) < 1e-4
    assert float((after - before).abs().max()) > 0.1
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        base
    )


def test_a_checkpoint_without_an_adapter_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", DENSE, is_gpt2=True)
    checkpoint = save_checkpoint(tmp_path / "checkpoints", trained_weights(DENSE))
    with pytest.raises(CheckpointError, match="holds no LoRA adapter"):
        write_adapter(tmp_path / "adapter", open_checkpoint(str(base)), checkpoint, ALL)
    assert not (tmp_path / "adapter").exists()
