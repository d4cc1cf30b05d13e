"""Models in 8 bits: loaded layer by layer, near float32, split over ranks; models that are not ours as well."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.distributed import RankPool, run_distributed
from tests.model.test_tensor_parallel import CONFIG, GOLDEN, RandomCheckpoint, build, logits_of_random
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.model_engine import build_runner
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.errors import RequestError
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.config import ModelConfig
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.layers.int8_linear import check_all_int8
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.tensor_parallel import shard_model, weight_bytes


def runner_of(model: str, **settings: Any) -> ModelRunner:
    config = ReplicaConfig(model=model, dtype="int8", slots=2, seq_length=64, **settings)
    place = RankPlace(rank=0, world_size=1, local_rank=0, local_size=1, threads=1)
    return build_runner(config, place, ProgressCounter())


@pytest.mark.parametrize("case", GOLDEN)
def test_the_logits_are_near_those_of_the_original_code(golden_dir: Path, case: str) -> None:
    from safetensors.torch import load_file

    reference = load_file(str(golden_dir / case / "reference.safetensors"))
    checkpoint = open_checkpoint(str(golden_dir / case))
    model: Any = build(checkpoint.config, checkpoint, "int8", 1)
    pack_linears(model, rows=64, to_int8=True)
    check_all_int8(model)
    with torch.inference_mode():
        logits = model(reference["tokens"]).logits.float()
    cosines = torch.nn.functional.cosine_similarity(logits, reference["logits"], dim=-1)
    assert float(cosines.mean()) > 0.9993  # in bfloat16 0.9999
    assert float(cosines.min()) > 0.997


def test_two_ranks_hold_half_of_the_weights_each_and_answer_as_one(two_ranks: RankPool) -> None:
    exact, alone = (logits_of_random(CONFIG, dtype, 1) for dtype in ("float32", "int8"))
    for result in two_ranks.run(logits_of_random, CONFIG, "int8", 2):
        assert np.abs(result["logits"] - exact["logits"]).max() < 0.1 * np.abs(exact["logits"]).max()
        assert result["weight_bytes"] < 0.8 * alone["weight_bytes"]  # embeddings are whole on each


class MadeWhenRead(RandomCheckpoint):
    """A checkpoint whose weights take no memory until they are read."""

    def __init__(self, config: ModelConfig) -> None:
        from tirazh.model.config import expected_shapes

        self._shapes, self.bytes_read = expected_shapes(config), 0

    def names(self) -> list[str]:
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        return torch.full(self._shapes[name], 0.01, dtype=torch.float16)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc")
def test_loading_holds_one_layer_in_a_wider_dtype_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Freed weights return to the system, as those of a large model do, which are above glibc's highest threshold.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(1 << 20))
    with run_distributed(1) as ranks:  # a new process: what this one has freed would count as memory
        ((taken, held),) = ranks.run(peak_of_loading)
    one_layer = 12 * 2048 * 2048 * 2  # in bfloat16
    assert taken < held + 2.5 * one_layer < 8 * one_layer  # which the whole model would take


def peak_of_loading() -> tuple[int, int]:
    """The bytes that the process of a rank took at most while it loaded a model, and the bytes of its weights."""
    config = ModelConfig(num_layers=8, hidden_size=2048, num_attention_heads=8, vocab_size=512)
    warm: Any = shard_model(CONFIG, RandomCheckpoint(CONFIG), dtype="int8", device="cpu", tp_rank=0, tp_size=1)
    assert warm is not None
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    model = shard_model(config, MadeWhenRead(config), dtype="int8", device="cpu", tp_rank=0, tp_size=1)
    return _resident("VmHWM") - before, weight_bytes(model)


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def test_a_model_of_transformers_runs_in_8_bits(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    runner = runner_of(str(tmp_path))  # which compares it with transformers
    check_all_int8(runner.model)


def test_a_model_whose_layers_are_no_plain_linears_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=320, n_embd=64, n_layer=2, n_head=4, n_positions=256, scale_attn_by_inverse_layer_idx=True
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(RequestError, match=r"--dtype int8 cannot run this model: its layer .* is a Conv1D"):
        runner_of(str(tmp_path))
