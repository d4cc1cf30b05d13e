"""Conversion writes the same weights to a new directory, completely or not at all, in little memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.model.checkpoints.samples import (
    TINY,
    TINY_DENSE,
    random_weights,
    write_gpt2,
    write_json,
    write_llama,
    write_native,
    write_rugpts,
)
from tirazh.errors import CheckpointError, OutputError, RequestError
from tirazh.model.checkpoints.directory import describe, open_checkpoint
from tirazh.model.config import ModelConfig, ModelSettings, expected_shapes
from tirazh.model.convert import convert


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rugpts(tmp_path / "source", random_weights(TINY), mp=2)


def test_a_conversion_keeps_weights_and_config(source: Path, tmp_path: Path) -> None:
    summary = convert(str(source), str(tmp_path / "out"))
    assert (summary.kind, summary.config) == ("tirazh", replace(TINY, layout_groups=2))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, expected in random_weights(TINY).items():
        assert torch.equal(written[name], expected), name


def test_a_large_model_is_split_into_files_with_an_index(source: Path, tmp_path: Path) -> None:
    convert(str(source), str(tmp_path / "out"), max_shard_bytes=8_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 5
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all((tmp_path / "out" / name).stat().st_size < 8_000 + 2_000 for name in files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    checkpoint = open_checkpoint(str(tmp_path / "out"))
    for name, expected in random_weights(TINY).items():
        assert torch.equal(checkpoint.read(name), expected), name


def test_transposed_and_fused_tensors_of_gpt2_are_restored(tmp_path: Path) -> None:
    weights = random_weights(TINY_DENSE, dtype=torch.float32)
    convert(str(write_gpt2(tmp_path / "source", weights)), str(tmp_path / "out"))
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], expected) for name, expected in weights.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_new_files_have_the_requested_dtype(source: Path, tmp_path: Path, dtype: str) -> None:
    convert(str(source), str(tmp_path / "out"), dtype=dtype)
    checkpoint = open_checkpoint(str(tmp_path / "out"))
    for name, expected in random_weights(TINY).items():
        assert torch.equal(checkpoint.read(name), expected.to(getattr(torch, dtype))), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype


def test_a_converted_directory_can_be_converted_again(source: Path, tmp_path: Path) -> None:
    first = convert(str(source), str(tmp_path / "first"), max_shard_bytes=8_000)
    second = convert(str(tmp_path / "first"), str(tmp_path / "second"))
    assert second.config == first.config
    assert second.fingerprint == convert(str(source), str(tmp_path / "direct")).fingerprint


def test_transformers_reads_the_converted_config(source: Path, tmp_path: Path) -> None:
    from tirazh.model.gpt import RuGPT3Config

    convert(str(source), str(tmp_path / "out"))
    assert RuGPT3Config.from_pretrained(tmp_path / "out").to_model_config() == replace(TINY, layout_groups=2)


def test_model_settings_are_written_to_the_new_config(source: Path, tmp_path: Path) -> None:
    convert(str(source), str(tmp_path / "out"), settings=ModelSettings(sparse_mode="all", fix_sparsity_layout=4))
    config = describe(str(tmp_path / "out")).config
    assert config == replace(TINY, sparse_mode="all", layout_groups=4)


def test_the_tokenizer_is_copied_and_its_ids_are_in_the_config(source: Path, tmp_path: Path) -> None:
    vocab = {"a": 0, "b": 1, "<pad>": 2, "</s>": 3}
    (tmp_path / "words").mkdir()
    write_json(tmp_path / "words" / "vocab.json", vocab)
    (tmp_path / "words" / "merges.txt").write_text("#version: 0.2\n")
    summary = convert(str(source), str(tmp_path / "out"), settings=ModelSettings(tokenizer=str(tmp_path / "words")))
    assert summary.tokenizer_dir == str(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "vocab.json").read_text()) == vocab
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (3, 2)


def test_progress_counts_up_to_all_bytes(source: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    summary = convert(str(source), str(tmp_path / "out"), progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (summary.weight_bytes, summary.weight_bytes)


def test_values_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    weights = random_weights(TINY, dtype=torch.float32)
    weights["model.norm.weight"][3] = 1e6
    source = write_native(tmp_path / "source", weights)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds values too large for float16"):
        convert(str(source), str(tmp_path / "out"), dtype="float16")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_target_that_is_not_empty_is_refused_and_kept(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        convert(str(source), str(tmp_path / "out"))
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="is a file"):
        convert(str(source), str(tmp_path / "out" / "notes.txt"))


def test_a_killed_conversion_is_not_taken_for_a_model(source: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys; from tirazh.model.convert import convert\n"
        "convert(sys.argv[1], sys.argv[2], max_shard_bytes=8000, "
        "progress=lambda done, total: done > total / 2 and os._exit(9))"
    )
    out = tmp_path / "out"
    result = subprocess.run([sys.executable, "-c", code, str(source), str(out)], check=False, capture_output=True)
    assert result.returncode == 9
    assert list(out.glob("model-*.safetensors"))
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        describe(str(out))
    with pytest.raises(OutputError, match="holds an unfinished conversion"):
        convert(str(source), str(out))


def test_a_failure_leaves_the_target_empty(source: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(str(source), str(tmp_path / "out"), max_shard_bytes=8_000, progress=stop)
    assert list((tmp_path / "out").iterdir()) == []
    assert convert(str(source), str(tmp_path / "out")).kind == "tirazh"


def test_a_disk_that_is_too_small_is_refused_before_writing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"has 0\.0 GB free, but the model needs"):
        convert(str(source), str(tmp_path / "out"))


def test_a_wrong_request_is_refused_before_writing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--dtype must be one of .*, not 'fp16'"):
        convert(str(source), str(tmp_path / "out"), dtype="fp16")
    with pytest.raises(CheckpointError, match="needs no conversion"):
        convert(str(write_llama(tmp_path / "llama")), str(tmp_path / "out"))
    with pytest.raises(CheckpointError, match="--tokenizer"):
        convert(str(source), str(tmp_path / "out"), settings=ModelSettings(tokenizer=str(tmp_path)))
    assert not (tmp_path / "out").exists()


MEASURE = """
import sys, threading, torch
from tirazh.model.convert import convert

def resident(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))

torch.set_num_threads(1)
torch.zeros(1000).to(torch.float16).isinf().any()
before, before_all = resident("RssAnon"), resident("VmRSS")
peaks, is_done = [0, 0], threading.Event()

def watch():
    while not is_done.wait(0.002):
        peaks[:] = max(peaks[0], resident("RssAnon")), max(peaks[1], resident("VmRSS"))

watcher = threading.Thread(target=watch)
watcher.start()
convert(sys.argv[1], sys.argv[2])
is_done.set()
watcher.join()
print(before, peaks[0], before_all, peaks[1])
"""


def patterned_weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Return distinct weights of a large model quickly: every tensor is a rotation of the same ramp of values."""
    ramp = (torch.arange(1 << 16) % 1009 / 1009).half()
    weights = {}
    for index, (name, shape) in enumerate(expected_shapes(config).items()):
        size = torch.Size(shape).numel()
        weights[name] = ramp.roll(index).repeat(-(-size // len(ramp)))[:size].reshape(shape)
    return weights


def convert_measured(folder: Path, config: ModelConfig) -> tuple[int, int, int]:
    """Convert a generated two-rank checkpoint in a new process.

    Returns the bytes of all weights, and by how many bytes the memory of the process grew:
    anonymous memory alone, and including pages of mapped files.
    """
    weights = patterned_weights(config)
    total = sum(tensor.nbytes for tensor in weights.values())
    largest = max(tensor.nbytes for tensor in weights.values())
    sample = {name: weights[name].clone() for name in (*list(weights)[::97], "model.norm.bias")}
    write_rugpts(folder / "source", weights, config, mp=2)
    del weights
    command = [sys.executable, "-c", MEASURE, str(folder / "source"), str(folder / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    before, peak, before_all, peak_all = map(int, result.stdout.split())
    print(
        f"weights {total / 1e6:.0f} MB, largest tensor {largest / 1e6:.1f} MB: anonymous memory {before / 1e6:.0f} MB "
        f"before, {peak / 1e6:.0f} MB at most; with mapped files {before_all / 1e6:.0f} and {peak_all / 1e6:.0f} MB"
    )
    written = open_checkpoint(str(folder / "out"))
    assert all(torch.equal(written.read(name), expected) for name, expected in sample.items())
    shutil.rmtree(folder / "source")
    shutil.rmtree(folder / "out")
    return total, peak - before, peak_all - before_all


def test_memory_stays_far_below_the_size_of_the_model(tmp_path: Path) -> None:
    config = replace(TINY, num_layers=12, hidden_size=512, num_attention_heads=8, vocab_size=1024, layout_groups=2)
    total, anonymous, _ = convert_measured(tmp_path, config)
    assert total > 75e6
    assert anonymous < total / 3


@pytest.mark.slow
def test_memory_is_a_small_part_of_a_large_model(tmp_path: Path) -> None:
    config = replace(TINY, num_layers=60, hidden_size=1024, num_attention_heads=16, vocab_size=4096, layout_groups=2)
    total, anonymous, resident = convert_measured(tmp_path, config)
    assert total > 1.3e9
    assert anonymous < total / 20
    assert resident < total / 5
