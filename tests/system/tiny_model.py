"""A random sparse model of our own format, small enough to answer in milliseconds, and its byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tirazh.model.checkpoints.native import native_config
from tirazh.model.config import ModelConfig, SparsePattern, expected_shapes

END_OF_TEXT = "<|endoftext|>"
# Windows of 16 tokens: even a headline closes several, so that the pattern matters. Two layout groups, as of mp 2.
TINY = ModelConfig(
    num_layers=4,
    hidden_size=64,
    num_attention_heads=4,
    vocab_size=264,
    max_position_embeddings=512,
    sparse_mode="alternating",
    sparse_pattern=SparsePattern(block_size=4, num_local_blocks=4, num_different_global_patterns=4),
    layout_groups=2,
)


def write_tiny_model(folder: Path, *, config: ModelConfig = TINY, seed: int = 0) -> str:
    """Write config.json, model.safetensors and tokenizer.json; the same seed gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(native_config(config, "float32")))
    draw = np.random.default_rng(seed)
    save_file(
        {name: _weight(name, shape, draw) for name, shape in expected_shapes(config).items()},
        folder / "model.safetensors",
    )
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return str(folder)


def byte_tokenizer() -> Tokenizer:
    """GPT-2's byte-level BPE with no merges: a token a byte, and the end of text behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _weight(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    """Large enough that layers matter and the likeliest token is clear of the second."""
    if "layernorm" in name or name.startswith("model.norm"):
        return np.full(shape, float(name.endswith("weight")), dtype=np.float32)
    return (0.2 * draw.standard_normal(shape)).astype(np.float32)
