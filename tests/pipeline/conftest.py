"""A small model directory for planning.

Its weights are zeros, since the echo engine does not read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

from tirazh.model.tokenizer import Tokenizer, load_tokenizer

HIDDEN, LAYERS, VOCABULARY, POSITIONS = 8, 1, 300, 256
TEXT = "Новости экономики и спорта: банк поднял ставку, команда выиграла матч. Тема: economics and sport news\n\n"


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    _save_tokenizer(folder)
    _save_weights(folder)
    config = {
        "model_type": "rugpt3",
        "architectures": ["RuGPT3ForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
        "layer_norm_eps": 1e-5,
        "sparse_mode": "none",
        "sparse_layout_groups": 1,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Tokenizer:
    return load_tokenizer(str(model_dir))


@pytest.fixture
def write_input(tmp_path: Path) -> Callable[..., Path]:
    """`write_input("a.parquet", text=[...], row_group_size=...)` writes a file to the `in/`
    directory of the test.
    """

    def write(name: str, *, row_group_size: int | None = None, **columns: Any) -> Path:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
        return path

    return write


def _save_tokenizer(folder: Path) -> None:
    rust = tokenizers.Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator([TEXT], trainer)
    rust.save(str(folder / "tokenizer.json"))


def _save_weights(folder: Path) -> None:
    def zeros(*shape: int) -> np.ndarray[Any, Any]:
        return np.zeros(shape, np.float32)

    tensors = {
        "model.embed_tokens.weight": zeros(VOCABULARY, HIDDEN),
        "model.embed_positions.weight": zeros(POSITIONS, HIDDEN),
        "model.norm.weight": zeros(HIDDEN),
        "model.norm.bias": zeros(HIDDEN),
    }
    sizes = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    sizes |= {"mlp.up_proj": (4 * HIDDEN, HIDDEN), "mlp.down_proj": (HIDDEN, 4 * HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors |= {f"{prefix}{norm}.weight": zeros(HIDDEN), f"{prefix}{norm}.bias": zeros(HIDDEN)}
        for name, shape in sizes.items():
            tensors |= {f"{prefix}{name}.weight": zeros(*shape), f"{prefix}{name}.bias": zeros(shape[0])}
    save_file(tensors, folder / "model.safetensors")
