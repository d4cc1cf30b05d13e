"""What `--invariant tensor-parallel` costs on one rank: the time of a step with it, as a multiple of the time without.

    python -m benchmarks.invariant_cost

Whole steps of the base shape (12 layers, 768 wide) with random weights, logits included: decode steps of 64 and of
8 rows behind 256 tokens, and prefill steps of 512 rows, four chunks of 128. One thread; the two models take turns,
step by step, and the ratio is the median of those of all pairs, in CPU seconds, so that other processes on the
machine count little. With several ranks the exchange of their sums comes on top: float32 instead of the model's
dtype, by gloo.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.model_under_test import SHAPES
from tirazh.model.config import ModelConfig, expected_shapes
from tirazh.model.cpu_features import may_multiply_bfloat16
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.layers.chunked_linear import check_own_kernels
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.step import ROWS_ON_CPU, FreshSlot
from tirazh.model.tensor_parallel import shard_model

CONTEXT, CHUNK = 256, 128  # tokens
DECODE_ROWS = (64, 8)


class RandomWeights:
    """A checkpoint of random weights, the same in every model."""

    path = "random"

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = expected_shapes(config)

    def names(self) -> list[str]:
        """The names of all weights."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a whole weight."""
        return self._shapes[name]

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """A weight, float32; one rank needs no slices."""
        generator = torch.Generator().manual_seed(self.names().index(name))
        return torch.randn(self._shapes[name], generator=generator) * 0.02


def _runner(config: ModelConfig, dtype: str, *, is_invariant: bool) -> ModelRunner:
    model = shard_model(
        *(config, RandomWeights(config)), dtype=dtype, device="cpu", tp_rank=0, tp_size=1, is_invariant=is_invariant
    )
    pack_linears(model, rows=ROWS_ON_CPU.decode, to_int8=dtype == "int8")
    check_own_kernels(model, dtype)
    return ModelRunner(model, num_slots=max(DECODE_ROWS), max_length=config.max_position_embeddings)


def _prefill(runner: ModelRunner, slots: range, start: int) -> None:
    """One chunk of each of some slots."""
    builder = StepBuilder("prefill", len(slots) * CHUNK)
    for slot in slots:
        builder.add(slot, [7 * slot + i for i in range(CHUNK)], start)
        builder.request_logits(slot, 1)
    runner.execute(builder.build(tuple(FreshSlot(slot, uses_prefix=False) for slot in slots if not start)))


def _decode(runner: ModelRunner, rows: int) -> None:
    """A token in each of the first slots, which begin again behind `CONTEXT` tokens when they are full."""
    if runner.cache.lengths[0] in (0, CHUNK, runner.max_length):
        for first in range(0, rows, 4):
            for start in range(0, CONTEXT, CHUNK):
                _prefill(runner, range(first, min(first + 4, rows)), start)
    builder = StepBuilder("decode", rows)
    for slot in range(rows):
        builder.add(slot, [slot], runner.cache.lengths[slot])
        builder.request_logits(slot, 1)
    runner.execute(builder.build(()))


def _pairs(calls: tuple[Callable[[], None], Callable[[], None]], budget_s: float) -> tuple[float, float, float]:
    """The median CPU seconds of each of two calls that take turns for `budget_s`, and that of the pairs' ratios."""
    for call in calls:
        call()
    taken: list[tuple[float, float]] = []
    end = time.thread_time() + budget_s
    while time.thread_time() < end or len(taken) < 5:
        seconds = [0.0, 0.0]
        for which in (0, 1) if len(taken) % 2 else (1, 0):
            begin = time.thread_time()
            calls[which]()
            seconds[which] = time.thread_time() - begin
        taken.append((seconds[0], seconds[1]))
    firsts, seconds_ = zip(*taken, strict=True)
    ratio = statistics.median(second / first for first, second in taken)
    return statistics.median(firsts), statistics.median(seconds_), ratio


def main() -> None:
    """Print one line for every dtype and kind of step."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtypes", nargs="*", default=["float32", *(["bfloat16"] * may_multiply_bfloat16()), "int8"])
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU seconds a line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = SHAPES["base"].config("alternating")
    print("dtype     step               without ms   with ms   with / without")
    for dtype in options.dtypes:
        plain, cut = (_runner(config, dtype, is_invariant=is_invariant) for is_invariant in (False, True))
        steps: dict[str, Callable[[ModelRunner], None]] = {
            f"decode {rows:4} rows": partial(_decode, rows=rows) for rows in DECODE_ROWS
        }
        steps[f"prefill {4 * CHUNK} rows"] = partial(_prefill, slots=range(4), start=0)
        for name, step in steps.items():
            one, other, ratio = _pairs((partial(step, plain), partial(step, cut)), options.seconds)
            print(f"{dtype:9} {name:18} {1e3 * one:10.2f} {1e3 * other:9.2f} {ratio:16.3f}", flush=True)


if __name__ == "__main__":
    main()
