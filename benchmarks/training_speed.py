"""Time training through sparse attention: forward and backward of our path and of a masked dense one.

    python -m benchmarks.training_speed                        2,048 tokens, the layout of XL, on this CPU
    python -m benchmarks.training_speed --device cuda --dtype bfloat16
    python -m benchmarks.training_speed --trainer --rounds 4   whole steps, against transformers' Trainer
    python -m benchmarks.training_speed --trainer --dtype bfloat16   also where the CPU has to emulate it

Two things are timed: the attention of one sparse layer, and whole training steps of a small model whose layers
alternate. The dense path is torch's scaled_dot_product_attention with the expanded mask, as in the community's port of
XL. The paths take turns and the median of each is printed; their gradients are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.training_rounds import compare_all
from tirazh.model import transformer
from tirazh.model.attention.block_layout import global_starts
from tirazh.model.attention.full_sequence import window_attention
from tirazh.model.attention.reference import visible_keys
from tirazh.model.config import ModelConfig, SparsePattern
from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM

_TOLERANCE = 1e-5  # of float32 gradients
Attention = Callable[[Tensor, Tensor, Tensor, SparsePattern, Sequence[int], float], Tensor]


class MaskedAttention:
    """The dense path, with the signature of `window_attention`; the mask of a length is computed once."""

    def __init__(self) -> None:
        self._masks: dict[int, Tensor] = {}

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern, starts: Sequence[int], scale: float
    ) -> Tensor:
        length = q.shape[2]
        if length not in self._masks:
            positions = torch.arange(length, device=q.device)[None]
            self._masks[length] = visible_keys(pattern, torch.tensor(starts, device=q.device), positions, positions)[0]
        return scaled_dot_product_attention(q, k, v, self._masks[length], scale=scale)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Training speed of sparse attention against a dense one, masked.")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="default: float32; with --trainer both, but bfloat16 only on CPUs that compute it",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trainer", action="store_true", help="whole steps against transformers' Trainer, on CPUs")
    parser.add_argument(
        "--limit-s",
        type=float,
        default=140.0,
        help="with --trainer: seconds of each of the cases; one that is slower makes fewer rounds, at least one",
    )
    options = parser.parse_args(argv)
    if options.trainer:
        compare_all(
            rounds=options.rounds, threads=torch.get_num_threads(), dtype=options.dtype, limit_s=options.limit_s
        )
        return
    config = ModelConfig(
        num_layers=4,
        hidden_size=512,
        num_attention_heads=8,
        vocab_size=8192,
        max_position_embeddings=max(2048, options.length),
        sparse_mode="alternating",
    )
    name = options.dtype or "float32"
    dtype = getattr(torch, name)
    paths: dict[str, Attention] = {"sparse": window_attention, "masked": MaskedAttention()}
    threads = torch.get_num_threads()
    print(f"{options.length} tokens, {name} on {options.device}, {threads} threads; median of {options.rounds}")
    layer = {name: attention_step(path, config, options.length, dtype, options.device) for name, path in paths.items()}
    check_gradients(paths, config, options.length, options.device)
    show("attention of one sparse layer", take_turns(layer, options.rounds, options.device))
    whole = {name: model_step(path, config, options.length, dtype, options.device) for name, path in paths.items()}
    show("step of a model of 4 alternating layers", take_turns(whole, options.rounds, options.device))


def random_inputs(config: ModelConfig, length: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Return q, k and v of one sequence, [1, H, length, D], as leaves that require gradients."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, config.num_attention_heads, length, config.head_dim)
    return [torch.randn(shape, generator=generator).to(device=device, dtype=dtype).requires_grad_() for _ in range(3)]


def attention_step(
    attend: Attention, config: ModelConfig, length: int, dtype: torch.dtype, device: str
) -> Callable[[], list[Tensor]]:
    """Return a function that runs forward and backward of one layer's attention and returns the gradients."""
    q, k, v = random_inputs(config, length, dtype, device)
    starts = global_starts(config)

    def step() -> list[Tensor]:
        out = attend(q, k, v, config.sparse_pattern, starts, config.head_dim**-0.5)
        return list(torch.autograd.grad(out.sum(), [q, k, v]))

    return step


def model_step(
    attend: Attention, config: ModelConfig, length: int, dtype: torch.dtype, device: str
) -> Callable[[], None]:
    """Return a function that runs forward, loss and backward of a whole model."""
    torch.manual_seed(0)
    language_model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(config)).to(device=device, dtype=dtype).train()
    tokens = torch.randint(0, config.vocab_size, (1, length), device=device)

    def step() -> None:
        with attention_of_models(attend):
            language_model.zero_grad()
            language_model(tokens, labels=tokens).loss.backward()

    return step


@contextmanager
def attention_of_models(attend: Attention) -> Iterator[None]:
    """Let sparse layers use `attend` inside the block."""
    with patch.object(transformer, "window_attention", attend):
        yield


def check_gradients(paths: dict[str, Attention], config: ModelConfig, length: int, device: str) -> None:
    """Raise AssertionError unless both paths give the same float32 gradients."""
    found = [attention_step(path, config, length, torch.float32, device)() for path in paths.values()]
    worst = max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))
    assert worst < _TOLERANCE, f"gradients differ by {worst}"
    print(f"gradients of the two differ by {worst:.1e} at most (float32)")


def take_turns(steps: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Return the median seconds of each step, after one untimed round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def show(what: str, seconds: dict[str, float]) -> None:
    """Print one line: both times, and how many times as fast the sparse path is."""
    ratio = seconds["masked"] / seconds["sparse"]
    shown = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items())
    print(f"{what}: {shown}; sparse is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
