"""A directory with any damage gives exactly the logits of its true weights, or is refused in one sentence.

Damages that no reader can see are left out: other values in a weight, another number of heads, another
epsilon.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tests.model.checkpoints.damage import truncated
from tests.model.checkpoints.samples import (
    TINY,
    TINY_DENSE,
    Weights,
    gpt2_weights,
    random_weights,
    write_files,
    write_gpt2,
    write_llama,
    write_native,
    write_port,
)
from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import describe
from tirazh.model.load import load_pretrained

TOKENS = torch.arange(40).reshape(2, 20)
RELAXED = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
WEIGHTS = random_weights(TINY, dtype=torch.float32)
DENSE = random_weights(TINY_DENSE, dtype=torch.float32)
KINDS: dict[str, Callable[[Path], Path]] = {
    "gpt2": lambda folder: write_gpt2(folder, DENSE),
    "gpt2 in two files": lambda folder: write_gpt2(folder, DENSE, num_files=2),
    "tirazh": lambda folder: write_native(folder, WEIGHTS),
    "tirazh in two files": lambda folder: write_native(folder, WEIGHTS, num_files=2),
    "port": lambda folder: write_port(folder, WEIGHTS, TINY),
    "llama": write_llama,
}
SIZES = (
    *("n_layer", "n_embd", "n_positions", "n_inner", "vocab_size", "num_hidden_layers", "hidden_size"),
    *("intermediate_size", "sparse_mode", "sparse_pattern"),
)
WRONG: tuple[tuple[str, object], ...] = (
    ("model_type", None),
    ("model_type", "no-such-model"),
    ("tie_word_embeddings", "yes"),
    ("torch_dtype", "int8"),
    ("architectures", ["BertForMaskedLM"]),
    ("quantization_config", {"quant_method": "awq"}),
    ("hidden_act", "gelu_nwe"),
    ("activation_function", "gelu_nwe"),
    ("is_encoder_decoder", True),
)


def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = load_pretrained(str(folder)).eval()(TOKENS).logits
        return found


@cache
def true_logits(kind: str) -> torch.Tensor:
    return logits(KINDS[kind](Path(mkdtemp()) / "m"))


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def damage_tensor(folder: Path, data: st.DataObject) -> None:
    """Drop, rename, copy, shorten or cast one tensor of one file."""
    path = data.draw(st.sampled_from(weight_files(folder)))
    tensors: Weights = load_file(path)
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    match data.draw(st.sampled_from(("drop", "rename", "copy", "head", "layer", "shorten", "cast", "beside"))):
        case "drop":
            del tensors[name]
        case "rename":
            tensors[f"{name}x"] = tensors.pop(name)
        case "copy":
            tensors[f"copy_of_{name}"] = tensor.clone()
        case "head":
            tensors[data.draw(st.sampled_from(("score.weight", "output_layer.weight")))] = tensor.clone()
        case "layer":
            tensors[name.replace(".0.", ".9.").replace(".1.", ".9.")] = tensor + 1 if ".0." in name else tensor.clone()
        case "shorten":
            tensors[name] = tensor[:-1].clone()
        case "cast":
            tensors[name] = tensor.to(data.draw(st.sampled_from((torch.int8, torch.int64, torch.float32))))
        case _:
            other = data.draw(st.sampled_from(weight_files(folder)))
            if other != path:
                save_file(load_file(other) | {name: tensor + 1}, other, metadata={"format": "pt"})
    save_file(tensors, path, metadata={"format": "pt"})


def damage_config(folder: Path, data: st.DataObject) -> None:
    """Change one size, remove it, or say something that no such model says."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    present = [name for name in SIZES if values.get(name) is not None]
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(present))
        size = values[name]
        others = [size + 1, size * 2] if isinstance(size, int) else []
        values[name] = data.draw(st.sampled_from([None, 0, -3, "7", 1.5, True, *others]))
    else:
        name, value = data.draw(st.sampled_from(WRONG))
        if values.get("model_type") == "gpt2" and name == "hidden_act":
            name = "activation_function"  # what GPT-2 calls it
        values[name] = value
    path.write_text(json.dumps(values))


def damage_file(folder: Path, data: st.DataObject) -> None:
    """Cut a file short, remove it, or replace it by a pointer of Git LFS."""
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    match data.draw(st.sampled_from(("truncate", "remove", "pointer", "empty"))):
        case "truncate":
            truncated(path, data.draw(st.floats(0, 0.99)))
        case "remove":
            path.unlink()
        case "pointer":
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        case _:
            path.write_bytes(b"")


def add_weights(folder: Path, data: st.DataObject) -> None:
    """Put other weights beside, which a reader must not take for the model's."""
    others = gpt2_weights(random_weights(TINY_DENSE, seed=9), TINY_DENSE)
    match data.draw(st.sampled_from(("pickle", "pickles", "adapter", "shards"))):
        case "pickle":
            write_files(folder, others, is_pickle=True)
        case "pickles":
            write_files(folder, others, is_pickle=True, num_files=2)
        case "adapter":
            (folder / "adapter_config.json").write_text("{}")
        case _ if (folder / "model.safetensors").is_file():
            write_files(folder, others, num_files=3)
        case _:
            save_file(others, folder / "model-00007-of-00007.safetensors")


# Not a damaged file beside other weights: without the true ones a directory is of the others.
DAMAGES = st.lists(st.sampled_from((damage_tensor, damage_config, damage_file)), min_size=1, max_size=2) | st.lists(
    st.sampled_from((damage_tensor, damage_config, add_weights)), min_size=1, max_size=2
)


@RELAXED
@given(st.sampled_from(sorted(KINDS)), DAMAGES, st.data())
def test_a_damaged_directory_gives_its_true_logits_or_is_refused(
    kind: str, damages: list[Callable[[Path, st.DataObject], None]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as place:
        folder = KINDS[kind](Path(place) / "m")
        for damage in damages:
            # The first damage may leave nothing that the second can change.
            with suppress(OSError, ValueError, SafetensorError, InvalidArgument):
                damage(folder, data)
        assert_true_or_refused(folder, kind)


def assert_true_or_refused(folder: Path, kind: str) -> None:
    found = sentence = None
    try:
        describe(str(folder))
        found = logits(folder)
    except CheckpointError as error:
        sentence = str(error)
    if sentence is not None:
        assert "\n" not in sentence
        assert len(sentence) < 800
    else:
        assert found is not None
        assert torch.equal(found, true_logits(kind))


def test_an_undamaged_directory_gives_its_true_logits(tmp_path: Path) -> None:
    for index, kind in enumerate(KINDS):
        assert torch.equal(logits(KINDS[kind](tmp_path / str(index))), true_logits(kind))
