"""The model that all engines run: one set of random weights, as our model, as transformers' GPT-2 and as a directory.

Speed depends on shapes alone, so no real checkpoint is needed. The weights are sampled so that completions vary
instead of repeating one token: then a key that is read wrongly changes the tokens, which are compared first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from tirazh.model.config import ModelConfig
from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM

Mode = Literal["dense", "alternating"]
AnyModel = TypeVar("AnyModel", bound=PreTrainedModel)
_LARGE = 2048  # channels
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}  # bytes of an element


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A model's size. Token counts of a workload are divided by `token_divisor` to suit it."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    vocab_size: int = 50264
    num_positions: int = 2048
    token_divisor: int = 1

    def config(self, mode: Mode) -> ModelConfig:
        """Return our config; "alternating" has XL's sparse pattern in every second layer."""
        return ModelConfig(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_heads,
            vocab_size=self.vocab_size,
            max_position_embeddings=self.num_positions,
            sparse_mode="none" if mode == "dense" else "alternating",
        )

    def gpt2_config(self) -> GPT2Config:
        return GPT2Config(
            vocab_size=self.vocab_size,
            n_positions=self.num_positions,
            n_embd=self.hidden_size,
            n_layer=self.num_layers,
            n_head=self.num_heads,
            bos_token_id=None,
            eos_token_id=None,
        )


SHAPES = {
    shape.name: shape
    for shape in (
        # Prompts divided by 4 still fill three windows of the sparse pattern.
        Shape(name="tiny", num_layers=2, hidden_size=64, num_heads=4, vocab_size=8448, token_divisor=4),
        Shape(name="base", num_layers=12, hidden_size=768, num_heads=12),
        Shape(name="xl", num_layers=24, hidden_size=2048, num_heads=16),
        Shape(name="13b", num_layers=40, hidden_size=5120, num_heads=40),
    )
}


def empty_model(shape: Shape, mode: Mode) -> RuGPT3ForCausalLM:
    """Return our model without weights, on torch's meta device."""
    with torch.device("meta"):
        return RuGPT3ForCausalLM(RuGPT3Config.from_model_config(shape.config(mode)))


class ModelUnderTest:
    """The weights in memory (float32; bfloat16 for large models), and their conversion for each peer."""

    def __init__(self, shape: Shape, workdir: Path, *, device: str = "cpu", seed: int = 0) -> None:
        self.shape, self.workdir, self.device = shape, workdir, device
        self._seed = seed

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weights by our names, on the device; a large model's stay on the CPU, because two copies fill a GPU."""
        # Sampled on the device: thirteen billion values take a CPU minutes.
        generator = torch.Generator(self.device).manual_seed(self._seed)
        is_large = self.shape.hidden_size > _LARGE
        dtype, device = (torch.bfloat16, "cpu") if is_large else (torch.float32, self.device)
        return {
            name: _sample_weight(name, tuple(parameter.shape), generator).to(dtype).to(device)
            for name, parameter in empty_model(self.shape, "dense").named_parameters()
        }

    def ours(self, mode: Mode, dtype: str) -> RuGPT3ForCausalLM:
        """Return our model on the device; sparse and dense layers have the same weights."""
        return _filled(empty_model(self.shape, mode), self.weights.items(), dtype, self.device)

    def gpt2(self, dtype: str) -> GPT2LMHeadModel:
        """Return transformers' own dense GPT-2 on the device."""
        with torch.device("meta"):
            model = GPT2LMHeadModel(self.shape.gpt2_config())
        model = _filled(model, self._as_gpt2(), dtype, self.device)
        model.generation_config.bos_token_id = model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        return model

    @cached_property
    def gpt2_directory(self) -> Path:
        """A Hugging Face GPT-2 directory (float32, no tokenizer), for peers that convert one."""
        directory = self.workdir / f"gpt2-{self.shape.name}"
        model = GPT2LMHeadModel(self.shape.gpt2_config())
        model.load_state_dict({name: weight.float() for name, weight in self._as_gpt2()}, strict=False)
        model.save_pretrained(directory)
        return directory

    def _as_gpt2(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights as GPT-2 names them: q, k and v are joined and weight matrices are transposed."""
        weights = self.weights
        yield "transformer.wte.weight", weights["model.embed_tokens.weight"]
        yield "transformer.wpe.weight", weights["model.embed_positions.weight"]
        for layer in range(self.shape.num_layers):
            ours, theirs = f"model.layers.{layer}", f"transformer.h.{layer}"
            for kind in ("weight", "bias"):
                joined = torch.cat([weights[f"{ours}.self_attn.{x}_proj.{kind}"] for x in "qkv"])
                yield f"{theirs}.attn.c_attn.{kind}", joined.t().contiguous() if kind == "weight" else joined
                for name, gpt2_name in _SAME_SHAPE:
                    yield f"{theirs}.{gpt2_name}.{kind}", weights[f"{ours}.{name}.{kind}"]
                for name, gpt2_name in _TRANSPOSED:
                    yield f"{theirs}.{gpt2_name}.{kind}", weights[f"{ours}.{name}.{kind}"].t().contiguous()
        for kind in ("weight", "bias"):
            yield f"transformer.ln_f.{kind}", weights[f"model.norm.{kind}"]


_SAME_SHAPE = (("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2"))
_TRANSPOSED = (("self_attn.o_proj", "attn.c_proj"), ("mlp.up_proj", "mlp.c_fc"), ("mlp.down_proj", "mlp.c_proj"))


def _sample_weight(name: str, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(size, generator=generator, device=generator.device)
    if "norm" in name:
        return values * 0.05 + (1 if name.endswith("weight") else 0)
    if "embed" in name or name.endswith("bias"):
        return values * 0.04
    # Every layer adds about as much as it reads, so that earlier tokens determine the next one.
    scale: float = size[1] ** -0.5
    return values * scale


def _filled(model: AnyModel, weights: Iterable[tuple[str, Tensor]], dtype: str, device: str) -> AnyModel:
    """Load copies of the weights into `model`, so that a peer may pack or free its own."""
    as_dtype = getattr(torch, dtype)
    state = {name: weight.to(device=device, dtype=as_dtype, copy=True) for name, weight in weights}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    assert not any(parameter.is_meta for parameter in model.parameters())
    model.eval()
    return model
