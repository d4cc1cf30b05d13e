"""The interface of an engine in the comparison: open a model (not timed), run a workload (timed), close.

A peer with parameters such as a batch size lists them as settings; the fastest on a sample is timed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks.model_under_test import Mode, ModelUnderTest
from benchmarks.workloads import Row, Tokens, Workload

Setting = Mapping[str, Any]


@dataclass(kw_only=True, slots=True)
class Outcome:
    """`tokens[i]` = row i's new tokens; for labels, `scores[i]` = log-likelihood of each label."""

    seconds: float
    tokens: list[Tokens] = field(default_factory=list)
    scores: list[tuple[float, ...]] = field(default_factory=list)


class Peer:
    """An engine at one dtype. `library` is the name of its distribution, None for code in this folder."""

    family: ClassVar[str]
    library: ClassVar[str | None] = None
    kinds: ClassVar[frozenset[str]]
    # Rows of the sample on which the setting is chosen and the time of a row is measured; few where rows are slow.
    probe_rows: ClassVar[int] = 16
    mode: Mode = "dense"

    def __init__(self, dtype: str, *, device: str = "cpu") -> None:
        self.dtype, self.device = dtype, device
        self.model: Any = None

    @property
    def name(self) -> str:
        return f"{self.family}, {self.dtype}"

    def version(self) -> str:
        return metadata.version(self.library) if self.library else ""

    def why_absent(self) -> str | None:
        """Return why this peer cannot run on this machine, or None if it can."""
        return None

    def takes(self, workload: Workload) -> bool:
        """Return whether this peer runs that workload."""
        return workload.kind in self.kinds

    def runs_everything(self, workload: Workload) -> bool:
        """Return whether this peer must run all rows, however long they take."""
        return False

    def settings(self, workload: Workload) -> Sequence[Setting]:
        """Return the settings to try on the workload."""
        return ({},)

    def sample(self, workload: Workload, num_rows: int, setting: Setting) -> Workload:
        """Return about `num_rows` rows on which this peer is as fast as on all of them."""
        return workload.sample(num_rows)

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        """Load the model for that setting."""
        raise AssertionError("every peer opens a model")

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        """Run all rows and return their outcomes in the rows' order."""
        raise AssertionError("every peer runs")

    def close(self) -> None:
        self.model = None
        free_memory()


def free_memory() -> None:
    """Free unreferenced memory, on a GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Stopwatch:
    """Seconds of a `with timed()` block, including the device's pending work."""

    seconds = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    watch = Stopwatch()
    _finish_device_work()
    begin = time.perf_counter()
    yield watch
    _finish_device_work()
    watch.seconds = time.perf_counter() - begin


def _finish_device_work() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def static_batches(rows: Sequence[Row], size: int, *, order: str = "prompt") -> list[list[int]]:
    """Return row indexes in batches of similar rows: longest prompts first, or longest completions first."""
    keys = {
        "prompt": lambda i: (len(rows[i].prompt), rows[i].num_new),
        "new": lambda i: (rows[i].num_new, len(rows[i].prompt)),
    }
    indexes = sorted(range(len(rows)), key=keys[order], reverse=True)
    return [indexes[first : first + size] for first in range(0, len(indexes), size)]


def sample_batches(workload: Workload, num_rows: int, size: int, *, order: str = "prompt") -> Workload:
    """Sample whole batches, spread evenly, so that rows in a batch are as similar as in a batch of all rows."""
    batches = static_batches(workload.rows, size, order=order)
    count = max(1, round(num_rows / size))
    if count >= len(batches):
        return workload
    chosen = ((np.arange(count) + 0.5) * len(batches) / count).astype(int)
    rows = tuple(workload.rows[index] for number in chosen for index in batches[number])
    return replace(workload, rows=rows)


def padded(sequences: Sequence[Sequence[int]], *, side: str, device: str | torch.device) -> tuple[Any, Any]:
    """Return input_ids and attention_mask, int64 [B, T], padded with token 0 on the given side."""
    longest = max(map(len, sequences))
    ids, mask = (torch.zeros(len(sequences), longest, dtype=torch.int64) for _ in range(2))
    for row, tokens in enumerate(sequences):
        where = slice(longest - len(tokens), longest) if side == "left" else slice(0, len(tokens))
        ids[row, where] = torch.tensor(tokens)
        mask[row, where] = 1
    return ids.to(device), mask.to(device)


def take_turn(peer: Peer, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> Outcome:
    """Open, run and close the peer, and restore torch's number of threads.

    Engines in C++ set the number of threads for the whole process, which would slow the next peer down.
    """
    threads = torch.get_num_threads()
    peer.open(under_test, workload, setting)
    try:
        return peer.run(workload, setting)
    finally:
        peer.close()
        torch.set_num_threads(threads)
