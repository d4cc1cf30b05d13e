"""Every damaged ru-gpts or Megatron directory gives one CheckpointError, and no pickle runs code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.model.checkpoints.damage import Cases, truncated
from tests.model.checkpoints.samples import TINY, random_weights, rank_weights, write_rugpts

WEIGHTS = random_weights(TINY)
RANK_FILE = "100/mp_rank_00_model_states.pt"
CASES = Cases()


class RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch code-was-run",)


class RemovesFiles:
    def __reduce__(self) -> tuple[object, ...]:
        return shutil.rmtree, ("no-such-directory",)


def saved(folder: Path, values: object, file: str = RANK_FILE) -> Path:
    torch.save(values, folder / file)
    return folder


def changed_rank(tmp: Path, **tensors: torch.Tensor | None) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS)
    values = rank_weights(WEIGHTS, TINY, rank=0, mp=1)
    for name, tensor in tensors.items():
        values.pop(name)
        if tensor is not None:
            values[name] = tensor
    return saved(folder, {"module": values})


@CASES.add("tracker names nothing", "has no checkpoint of that name")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS)
    (folder / "latest_checkpointed_iteration.txt").write_text("200")
    return folder


@CASES.add("tracker points outside", "must hold an iteration number")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS)
    (folder / "latest_checkpointed_iteration.txt").write_text("../other")
    return folder


@CASES.add("first rank missing", "but mp_rank_00 is missing")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS, mp=2)
    (folder / RANK_FILE).unlink()
    return folder


@CASES.add("last rank missing", "was saved by 2 model-parallel ranks, but has only 1 of their files")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS, mp=2)
    (folder / "100" / "mp_rank_01_model_states.pt").unlink()
    return folder


@CASES.add("a rank of another model", "which makes the shape of model.embed_tokens.weight")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS, mp=2)
    values = rank_weights(WEIGHTS, TINY, rank=1, mp=2)
    values["word_embeddings.weight"] = torch.zeros(24, 16, dtype=torch.float16)
    return saved(folder, {"module": values}, "100/mp_rank_01_model_states.pt")


@CASES.add("a rank of another dtype", "stored as float16 and float32")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS, mp=2)
    values = {name: tensor.float() for name, tensor in rank_weights(WEIGHTS, TINY, rank=1, mp=2).items()}
    return saved(folder, {"module": values}, "100/mp_rank_01_model_states.pt")


@CASES.add("truncated pickle", "mp_rank_00_model_states.pt is truncated or damaged")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS)
    truncated(folder / RANK_FILE, 0.7)
    return folder


@CASES.add("truncated old pickle", "mp_rank_00_model_states.pt is truncated or damaged")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS, layout="old")
    truncated(folder / RANK_FILE, 0.7)
    return folder


@CASES.add("pickle of no bytes", "mp_rank_00_model_states.pt is truncated or damaged")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS)
    (folder / RANK_FILE).write_bytes(b"")
    return folder


@CASES.add("text instead of a pickle", "mp_rank_00_model_states.pt is")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS)
    (folder / RANK_FILE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    return folder


@CASES.add("pickle with code", "contains code (posix.system) and was refused")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS)
    return saved(folder, {"module": rank_weights(WEIGHTS, TINY, rank=0, mp=1), "hook": RunsCode()})


@CASES.add("pickle with code of a library", "contains code (shutil.rmtree) and was refused")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS)
    return saved(folder, {"module": rank_weights(WEIGHTS, TINY, rank=0, mp=1), "hook": RemovesFiles()})


@CASES.add("old pickle with code", "contains code (posix.system) and was refused")
def _(tmp: Path) -> Path:
    folder = write_rugpts(tmp / "m", WEIGHTS, layout="old")
    torch.save({"module": {}, "hook": RunsCode()}, folder / RANK_FILE, _use_new_zipfile_serialization=False)
    return folder


@CASES.add("pickle of a list", "holds a list, not a dictionary of weights")
def _(tmp: Path) -> Path:
    return saved(write_rugpts(tmp / "m", WEIGHTS), [torch.zeros(3)])


@CASES.add("pickle without tensors", "holds no weights")
def _(tmp: Path) -> Path:
    return saved(write_rugpts(tmp / "m", WEIGHTS), {"iteration": 5})


@CASES.add("a tensor missing", "has no tensor transformer.layers.1.mlp.dense_h_to_4h.bias")
def _(tmp: Path) -> Path:
    return changed_rank(tmp, **{"transformer.layers.1.mlp.dense_h_to_4h.bias": None})


@CASES.add("a tensor of another shape", "transformer.layers.1.mlp.dense_h_to_4h.bias has shape [5]")
def _(tmp: Path) -> Path:
    return changed_rank(tmp, **{"transformer.layers.1.mlp.dense_h_to_4h.bias": torch.zeros(5, dtype=torch.float16)})


@CASES.add("rows that are not a multiple of three", "has 95 rows, not a multiple of three")
def _(tmp: Path) -> Path:
    name = "transformer.layers.1.attention.query_key_value.weight"
    return changed_rank(tmp, **{name: torch.zeros(95, 32, dtype=torch.float16)})


@CASES.add("a number instead of a tensor", "has 0 dimensions, too few for a model weight")
def _(tmp: Path) -> Path:
    return changed_rank(tmp, **{"word_embeddings.weight": torch.tensor(1.0)})


@CASES.add("Megatron's checkpoint version 1", "Megatron's checkpoint version 1")
def _(tmp: Path) -> Path:
    return write_rugpts(tmp / "m", WEIGHTS, layout="megatron", extra={"checkpoint_version": 1.0})


@CASES.add("model_args of another model", "says hidden_size 64, but the weights in")
def _(tmp: Path) -> Path:
    return write_rugpts(tmp / "m", WEIGHTS, model_args={"hidden_size": 64, "sparse_mode": "all"})


@CASES.add("model_args with a misspelt mode", "not 'altenating'; did you mean alternating?")
def _(tmp: Path) -> Path:
    return write_rugpts(tmp / "m", WEIGHTS, model_args={"num_attention_heads": 4, "sparse_mode": "altenating"})


@CASES.add("number of heads given nowhere", "give --num-attention-heads or --preset")
def _(tmp: Path) -> Path:
    return write_rugpts(tmp / "m", WEIGHTS, model_args={"sparse_mode": "all"})


@CASES.add("ZeRO-3 shards", "merge them first with the zero_to_fp32.py")
def _(tmp: Path) -> Path:
    (tmp / "m" / "global_step5").mkdir(parents=True)
    (tmp / "m" / "global_step5" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"")
    return tmp / "m"


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_rugpts_directory_gives_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    CASES.check(name, tmp_path)
    assert not (tmp_path / "code-was-run").exists()
    assert not recwarn.list
