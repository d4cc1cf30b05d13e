"""A random sparse model in tirazh's own format, which answers in milliseconds, and its byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tirazh.model.checkpoints.native import native_config
from tirazh.model.config import ModelConfig, SparsePattern, expected_shapes

END_OF_TEXT = "<|endoftext|>"
# Windows of 16 tokens: even a headline closes several, so that the sparse pattern matters. Two
# layout groups, as a checkpoint with a model-parallel size of 2 has.
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
    rng = np.random.default_rng(seed)
    save_file(
        {name: _weight(name, shape, rng) for name, shape in expected_shapes(config).items()},
        folder / "model.safetensors",
    )
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return str(folder)


def byte_tokenizer() -> Tokenizer:
    """Return GPT-2's byte-level BPE without merges: one token per byte, and the end-of-text token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _weight(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Sample weights so large that layers matter and the most likely token is far ahead of the second."""
    if "layernorm" in name or name.startswith("model.norm"):
        return np.full(shape, float(name.endswith("weight")), dtype=np.float32)
    return (0.2 * rng.standard_normal(shape)).astype(np.float32)
