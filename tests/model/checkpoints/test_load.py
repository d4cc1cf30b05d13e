"""`load_pretrained`: the original's logits from the original's files, and every format as a module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.model.checkpoints.samples import (
    TINY,
    TINY_DENSE,
    change_json,
    random_weights,
    write_gpt2,
    write_llama,
    write_native,
    write_port,
    write_rugpts,
)
from tirazh.errors import CheckpointError, RequestError
from tirazh.model.checkpoints.directory import describe
from tirazh.model.convert import convert
from tirazh.model.load import EMBEDDED_DIR, load_pretrained

GOLDEN = ("all_sparse_mp1", "xl_alternating_mp1", "xl_alternating_mp2", "hf_port_alternating")
TOKENS = torch.arange(40).reshape(2, 20)


def logits(model: torch.nn.Module, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(tokens).logits
        return result


@pytest.mark.parametrize("is_converted", [False, True], ids=["original", "converted"])
@pytest.mark.parametrize("name", GOLDEN)
def test_logits_are_those_of_the_original_code(golden_dir: Path, tmp_path: Path, name: str, is_converted: bool) -> None:
    folder = golden_dir / name
    reference = load_file(folder / "reference.safetensors")
    if is_converted:
        convert(str(folder), str(tmp_path / "converted"), max_shard_bytes=100_000)
    model = load_pretrained(str(tmp_path / "converted" if is_converted else folder))
    assert (logits(model, reference["tokens"]) - reference["logits"]).abs().max() < 2e-4


def test_the_same_weights_give_the_same_logits_in_every_format(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    expected = logits(load_pretrained(str(write_native(tmp_path / "ours", weights))))
    assert torch.equal(logits(load_pretrained(str(write_rugpts(tmp_path / "rugpts", weights)))), expected)
    assert torch.equal(logits(load_pretrained(str(write_port(tmp_path / "port", weights, TINY)))), expected)


def test_a_gpt2_directory_gives_the_logits_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = str(write_gpt2(tmp_path / "m", random_weights(TINY_DENSE, dtype=torch.float32)))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    torch.testing.assert_close(logits(load_pretrained(folder)), logits(theirs), atol=1e-5, rtol=1e-5)


def test_layout_groups_change_the_logits(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    folder = str(write_rugpts(tmp_path / "m", weights, mp=2))
    regrouped = load_pretrained(str(write_native(tmp_path / "n", weights, replace(TINY, layout_groups=2))))
    assert torch.equal(logits(load_pretrained(folder)), logits(regrouped))
    assert not torch.equal(logits(regrouped), logits(load_pretrained(str(write_native(tmp_path / "o", weights)))))


def test_a_tied_model_shares_its_embedding_and_an_untied_one_does_not(tmp_path: Path) -> None:
    tied = load_pretrained(str(write_native(tmp_path / "a", random_weights(TINY))))
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    untied = replace(TINY, tie_word_embeddings=False)
    loaded = load_pretrained(str(write_port(tmp_path / "b", random_weights(untied), untied)))
    assert not torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_and_logits_have_the_requested_dtype(tmp_path: Path, dtype: str) -> None:
    model = load_pretrained(str(write_native(tmp_path / "m", random_weights(TINY))), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert logits(model).dtype == getattr(torch, dtype)
    assert not model.training


def test_loaded_weights_do_not_change_with_the_file(tmp_path: Path) -> None:
    folder = write_native(tmp_path / "m", random_weights(TINY))
    model = load_pretrained(str(folder), dtype="float16")
    before = logits(model).clone()
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
    assert torch.equal(logits(model), before)


def test_a_foreign_model_is_loaded_by_transformers(tmp_path: Path) -> None:
    model = load_pretrained(str(write_llama(tmp_path / "m")), dtype="bfloat16")
    assert logits(model).shape == (2, 20, 48)
    assert logits(model).dtype == torch.bfloat16


def test_a_model_that_needs_remote_code_is_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    change_json(folder / "config.json", model_type="mystery", auto_map=auto_map)
    (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint was run')\n")
    for read in (describe, load_pretrained):  # when the job is planned already, not when its replicas start
        with pytest.raises(CheckpointError, match=r"code of its own .* never run"):
            read(str(folder))


def test_code_beside_a_supported_model_is_not_run(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    change_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint was run')\n")
    assert logits(load_pretrained(str(folder))).shape == (2, 20, 48)


def test_an_unknown_dtype_or_device_is_refused(tmp_path: Path) -> None:
    folder = str(write_native(tmp_path / "m", random_weights(TINY)))
    with pytest.raises(RequestError, match=r"not 'bfloat'; did you mean bfloat16\?"):
        load_pretrained(folder, dtype="bfloat")
    with pytest.raises(RequestError, match="device 'gpu' does not exist"):
        load_pretrained(folder, device="gpu")


def test_the_embedded_model_loads_by_its_name() -> None:
    if not (Path(EMBEDDED_DIR) / "model.safetensors").is_file():
        pytest.skip("model/embedded holds no weights in this checkout")
    assert logits(load_pretrained("embedded")).isfinite().all()
