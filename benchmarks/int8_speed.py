"""How fast a linear layer of 8-bit integers is beside oneDNN's, in bfloat16 and in 8 bits.

    python -m benchmarks.int8_speed

One thread; the layers take turns, and each has the median of its CPU seconds, so that other processes on the
machine count little. oneDNN's 8-bit product is called with inputs that are rounded already, with one scale a row
and without GELU: less than ours does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tirazh.model.layers.int8_linear import Int8Linear
from tirazh.model.layers.packed_linear import PackedLinear

SHAPES = ((768, 2304), (768, 3072), (3072, 768), (5120, 15360))
ROWS = (1, 8, 32, 64, 256, 512)


def _onednn(weight: Tensor, x: Tensor) -> Callable[[], Tensor]:
    ops = torch.ops.onednn
    scales = weight.abs().amax(dim=1) / 127
    rounded = (weight / scales[:, None]).round().to(torch.int8)
    packed = ops.qlinear_prepack(rounded, list(x.shape))
    bytes_ = (x.float() / x.abs().max() * 127 + 128).round().to(torch.uint8)
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    scale = float(x.abs().max()) / 127
    fixed: tuple[Any, ...] = (packed, scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], "")
    return lambda: ops.qlinear_pointwise(bytes_, scale, 128, *fixed)


def _seconds(calls: dict[str, Callable[[], object]], budget_s: float) -> dict[str, float]:
    """The median CPU seconds of each call; they take turns for `budget_s`."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.thread_time() + budget_s
    while time.thread_time() < end or len(taken[next(iter(calls))]) < 5:
        for name, call in calls.items():
            begin = time.thread_time()
            call()
            taken[name].append(time.thread_time() - begin)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Print one line for every shape and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds a line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("shape        rows   bf16 ms  onednn int8 ms  ours ms  bf16/ours  onednn/ours  GMAC/s  weight GB/s")
    with torch.inference_mode():
        for inputs, outputs in SHAPES:
            weight = torch.randn(outputs, inputs) / inputs**0.5
            ours, packed = Int8Linear(weight, None), PackedLinear(weight.bfloat16(), None, rows=64)
            for rows in options.rows:
                x = torch.randn(rows, inputs).bfloat16()
                calls: dict[str, Callable[[], object]] = {
                    "bf16": partial(packed, x),
                    "onednn": _onednn(weight, x),
                    "ours": partial(ours, x),
                }
                s = _seconds(calls, options.seconds)
                print(
                    f"{inputs}x{outputs:<6} {rows:5} {1e3 * s['bf16']:9.3f} {1e3 * s['onednn']:13.3f} "
                    f"{1e3 * s['ours']:10.3f} {s['bf16'] / s['ours']:9.2f} {s['onednn'] / s['ours']:10.2f} "
                    f"{rows * inputs * outputs / s['ours'] / 1e9:9.0f} {inputs * outputs / s['ours'] / 1e9:10.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
