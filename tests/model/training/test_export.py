"""A trained model opens elsewhere: transformers alone reads a dense one, and a sparse one after one import.

transformers runs in processes of its own, so that nothing of tirazh is registered there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.training.trained import DENSE, SPARSE, export_trained, trained_weights, write_base
from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import describe, open_checkpoint
from tirazh.model.config import expected_shapes
from tirazh.model.load import load_pretrained
from tirazh.model.tokenizer import load_tokenizer

REPOSITORY = Path(__file__).resolve().parents[3]
GUIDE = (REPOSITORY / "docs/finetune.md").read_text(encoding="utf-8").split("## Opening the model elsewhere")[1]
# The two examples of the guide: of a dense model, and of a sparse one.
DENSE_EXAMPLE, SPARSE_EXAMPLE = re.findall(r"```python\n(.*?)```", GUIDE.split("\n## ")[0], flags=re.DOTALL)
PROMPTS = ("Москва", "a", "news: <|endoftext|> ends", "the desk of sport, ")
# Prints what transformers makes of model directories. tirazh is taken off the path, wherever it is installed.
PLAIN = """
import importlib.util, json, sys
found = importlib.util.find_spec("tirazh")
if found is not None:
    home = str(__import__("pathlib").Path(found.origin).parent.parent)
    sys.path[:] = [entry for entry in sys.path if entry.rstrip("/") != home]
    sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in str(each)]
    importlib.invalidate_caches()
    sys.path_importer_cache.clear()
assert importlib.util.find_spec("tirazh") is None, "tirazh is still on the path"
"""
PLAIN += DENSE_EXAMPLE
REGISTERED = f"import json, sys\n{SPARSE_EXAMPLE}"
READ = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
told = {}
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in json.loads(sys.argv[1])]
    with torch.no_grad():
        logits = [model(torch.tensor([each])).logits[0].tolist() for each in ids]
        made = model.generate(torch.tensor(ids[:1]), max_new_tokens=4, do_sample=False)[0].tolist()
    roles = [tokenizer.eos_token, tokenizer.pad_token, tokenizer.model_max_length]
    ends = model.generation_config.eos_token_id
    told[folder] = {"class": type(model).__name__, "ids": ids, "logits": logits, "made": made, "roles": roles,
                    "ends": ends}
print(json.dumps(told))
"""


def ask_transformers(script: str, folders: list[Path], *, where: Path) -> dict[str, dict]:
    """Open directories in a new process and return what it printed, by directory."""
    command = [sys.executable, "-c", script + READ, json.dumps(PROMPTS), *map(str, folders)]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(where),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if script is REGISTERED:
        environment["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_equal(folder: Path, seen: dict) -> None:
    """Compare what transformers made of a directory with what tirazh makes of it."""
    model, tokenizer = load_pretrained(str(folder)), load_tokenizer(str(folder))
    for text, ids, logits in zip(PROMPTS, seen["ids"], seen["logits"], strict=True):
        if "<|" not in text:  # transformers takes the name of a control token for the token
            assert ids == tokenizer.encode(text)
        with torch.no_grad():
            ours = model(torch.tensor([ids])).logits[0].numpy()
        np.testing.assert_allclose(np.array(logits), ours, atol=1e-4)
    assert seen["roles"] == ["<|endoftext|>", "<|endoftext|>", 64]
    assert seen["ends"] == tokenizer.end_token_id == 256


def test_transformers_alone_opens_dense_models(tmp_path: Path) -> None:
    configs = {"my-model": DENSE, "own-head": replace(DENSE, tie_word_embeddings=False, layer_norm_eps=1e-3)}
    folders = []
    for name, config in configs.items():
        base = write_base(tmp_path / f"{name}-base", config, is_gpt2=name == "my-model")
        folders.append(export_trained(tmp_path / name, base, trained_weights(config)))
    seen = ask_transformers(PLAIN, folders, where=tmp_path)
    for folder in folders:
        assert seen[str(folder)]["class"] == "GPT2LMHeadModel"
        check_equal(folder, seen[str(folder)])


def test_transformers_opens_a_sparse_model_after_one_import(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", SPARSE)
    folder = export_trained(tmp_path / "my-model", base, trained_weights(SPARSE))
    seen = ask_transformers(REGISTERED, [folder], where=tmp_path)[str(folder)]
    assert seen["class"] == "RuGPT3ForCausalLM"
    check_equal(folder, seen)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_dense_model_keeps_its_weights(dtype: str | None, tmp_path: Path) -> None:
    config = replace(DENSE, tie_word_embeddings=False)
    weights = trained_weights(config)
    folder = export_trained(tmp_path / "out", write_base(tmp_path / "base", config), weights, dtype=dtype)
    read = open_checkpoint(str(folder))
    assert (read.kind, read.config) == ("gpt2", config)
    assert set(read.names()) == set(expected_shapes(config))
    for name in read.names():
        assert torch.equal(read.read(name), weights[name].to(getattr(torch, dtype or "float32"))), name


def test_a_model_whose_pattern_reaches_no_layer_is_dense(tmp_path: Path) -> None:
    config = replace(SPARSE, sparse_mode="top_bottom", num_layers=1)
    folder = export_trained(tmp_path / "out", write_base(tmp_path / "base", config), trained_weights(config))
    assert describe(str(folder)).kind == "gpt2"


def test_a_trained_model_can_be_trained_and_exported_again(tmp_path: Path) -> None:
    first = export_trained(tmp_path / "first", write_base(tmp_path / "base", DENSE), trained_weights(DENSE))
    second = export_trained(tmp_path / "second", first, trained_weights(DENSE))
    names = sorted(path.name for path in first.iterdir())
    assert names == ["config.json", "generation_config.json", "model.safetensors", *names[3:]]
    assert names[3:] == ["tokenizer.json", "tokenizer_config.json"]
    assert {name: (first / name).read_bytes() for name in names} == {
        name: (second / name).read_bytes() for name in names
    }


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", DENSE)
    with pytest.raises(CheckpointError, match="of another model"):
        export_trained(tmp_path / "out", base, trained_weights(replace(DENSE, num_layers=1)))
