"""Two ranks give the logits of one, each reads only its slice, and a model that cannot be sharded is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.distributed import RankPool, own_place, run_distributed
from tirazh.actors.model_engine import connect_ranks
from tirazh.actors.rendezvous import extensions_dir, shared_memory_names
from tirazh.errors import RequestError
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.config import ModelConfig, SparsePattern
from tirazh.model.tensor_parallel import shard_model, weight_bytes

CONFIG = ModelConfig(
    num_layers=4,
    hidden_size=64,
    num_attention_heads=8,
    vocab_size=104,
    max_position_embeddings=96,
    sparse_mode="alternating",
    sparse_pattern=SparsePattern(block_size=4, num_local_blocks=4, num_different_global_patterns=4),
    layout_groups=2,
)
GOLDEN = ("all_sparse_mp1", "hf_port_alternating", "xl_alternating_mp1", "xl_alternating_mp2")


class RandomCheckpoint:
    """A checkpoint of random weights in a config's shapes that counts the bytes read."""

    path = "random"

    def __init__(self, config: ModelConfig) -> None:
        from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM

        torch.manual_seed(0)
        model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(config))
        names = [name for name, _ in model.named_parameters()]
        self._tensors = {name: torch.randn_like(model.get_parameter(name)) * 0.1 for name in names}
        self.bytes_read = 0

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        whole = self._tensors[name]
        part = whole if dim is None else whole.narrow(dim, start, (stop or whole.shape[dim]) - start)
        self.bytes_read += part.numel() * part.element_size()
        return part


def build(config: ModelConfig | None, checkpoint: Any, dtype: str, tp_size: int) -> Any:
    """Build this rank's shard of a model; with tp_size 1 the whole model, in any process."""
    tp_rank = 0
    if tp_size > 1:
        tp_rank = own_place().rank
        connect_ranks(own_place(), device="cpu")
    return shard_model(config, checkpoint, dtype=dtype, device="cpu", tp_rank=tp_rank, tp_size=tp_size)


def logits_of_random(config: ModelConfig, dtype: str, tp_size: int) -> dict[str, Any]:
    checkpoint = RandomCheckpoint(config)
    model = build(config, checkpoint, dtype, tp_size)
    tokens = torch.arange(2 * 80).view(2, 80) * 7 % config.vocab_size
    with torch.inference_mode():
        logits = model(tokens).logits
    return {
        "logits": logits.float().numpy(),
        "dtype": str(logits.dtype),
        "bytes_read": checkpoint.bytes_read,
        "weight_bytes": weight_bytes(model),
        "is_tied": model.lm_head.weight is model.model.embed_tokens.weight,
        "is_shared_memory": _uses_shared_memory(),
    }


def logits_of_golden(case: str, tp_size: int) -> np.ndarray:
    checkpoint = open_checkpoint(case)
    model = build(checkpoint.config, checkpoint, "float32", tp_size)
    with torch.inference_mode():
        return model(_load_reference(case)["tokens"]).logits.numpy()


def logits_of_transformers(folder: str, tp_size: int) -> np.ndarray:
    model = build(None, open_checkpoint(folder), "float32", tp_size)
    with torch.inference_mode():
        return model(torch.arange(40)[None]).logits.numpy()


def sum_of_ranks(size: int) -> tuple[float, float]:
    """Return the minimum and maximum of a tensor of `size` elements after an all-reduce of ranks that hold 1 and 2."""
    from deepspeed import comm

    values = torch.full((size,), torch.distributed.get_rank() + 1.0)
    comm.inference_all_reduce(values)
    return float(values.min()), float(values.max())


def _load_reference(case: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(str(Path(case) / "reference.safetensors"))


def _uses_shared_memory() -> bool:
    from deepspeed import comm

    return comm.comm.cdb is not None and comm.comm.cdb.shm_comm_op is not None


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_two_ranks_give_the_logits_of_one(two_ranks: RankPool, tied: bool) -> None:
    config = replace(CONFIG, tie_word_embeddings=tied)
    alone = logits_of_random(config, "float32", 1)
    for result in two_ranks.run(logits_of_random, config, "float32", 2):
        np.testing.assert_allclose(result["logits"], alone["logits"], atol=2e-5)
        assert result["is_tied"] == alone["is_tied"] == tied
        assert result["is_shared_memory"]


def test_each_rank_reads_and_holds_only_its_slice(two_ranks: RankPool) -> None:
    whole = logits_of_random(CONFIG, "float32", 1)["bytes_read"]
    first, second = two_ranks.run(logits_of_random, CONFIG, "float32", 2)
    hidden, layers = CONFIG.hidden_size, CONFIG.num_layers
    sharded = layers * (12 * hidden * hidden + 7 * hidden)  # q k v o up down, and the biases of q k v up
    replicated = whole // 4 - sharded
    assert first["bytes_read"] == second["bytes_read"] == 4 * (sharded // 2 + replicated)
    assert first["weight_bytes"] == first["bytes_read"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_two_ranks_compute_in_half_precision(two_ranks: RankPool, dtype: str) -> None:
    exact = logits_of_random(CONFIG, "float32", 1)["logits"]
    for result in two_ranks.run(logits_of_random, CONFIG, dtype, 2):
        assert result["dtype"] == f"torch.{dtype}"
        assert np.abs(result["logits"] - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("case", GOLDEN)
def test_two_ranks_match_the_original_code(two_ranks: RankPool, golden_dir: Path, case: str) -> None:
    expected = _load_reference(str(golden_dir / case))["logits"].numpy()
    for logits in two_ranks.run(logits_of_golden, str(golden_dir / case), 2):
        assert np.abs(logits - expected).max() < 2e-4
    assert np.abs(logits_of_golden(str(golden_dir / case), 1) - expected).max() < 2e-4


def test_two_ranks_give_the_logits_of_one_for_a_foreign_model(two_ranks: RankPool, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    alone = logits_of_transformers(str(tmp_path), 1)
    for logits in two_ranks.run(logits_of_transformers, str(tmp_path), 2):
        np.testing.assert_allclose(logits, alone, atol=2e-5)


def test_a_number_of_ranks_that_does_not_divide_the_heads_is_refused(two_ranks: RankPool) -> None:
    config = replace(CONFIG, hidden_size=48, num_attention_heads=3, layout_groups=1)
    with pytest.raises(
        RequestError, match="--tensor-parallel 2 does not divide the model's 3 attention heads; give a divisor of 3"
    ):
        two_ranks.run(logits_of_random, config, "float32", 2)


def test_an_all_reduce_of_more_than_a_mebibyte_is_right(two_ranks: RankPool) -> None:
    assert two_ranks.run(sum_of_ranks, 3 * 2**20) == [(3.0, 3.0), (3.0, 3.0)]


def names_in_shared_memory() -> list[str]:
    connect_ranks(own_place(), device="cpu")
    return [name for name in shared_memory_names(own_place()) if Path("/dev/shm", name).exists()]


def test_shared_memory_is_unlinked_so_that_it_ends_with_the_ranks(two_ranks: RankPool) -> None:
    assert two_ranks.run(names_in_shared_memory) == [[], []]


@pytest.mark.slow
def test_ranks_without_a_compiler_all_reduce_with_gloo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    alone = logits_of_random(CONFIG, "float32", 1)
    with run_distributed(2) as ranks:
        for result in ranks.run(logits_of_random, CONFIG, "float32", 2):
            np.testing.assert_allclose(result["logits"], alone["logits"], atol=2e-5)
            assert not result["is_shared_memory"]
        assert ranks.run(sum_of_ranks, 1000) == [(3.0, 3.0), (3.0, 3.0)]


@pytest.mark.slow
def test_the_lock_of_a_killed_builder_blocks_no_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    left_behind = extensions_dir() / "deepspeed_shm_comm" / "lock"
    left_behind.parent.mkdir(parents=True)
    left_behind.touch()
    with run_distributed(2) as ranks:
        assert len(ranks.run(logits_of_random, CONFIG, "float32", 2)) == 2
