"""The interface of everyone in the comparison: open a model (not timed), run a workload (timed), close.

A peer that can be run in several ways (batch sizes) lists them as settings; the fastest on a sample is measured.
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
    """One way to run a workload at one dtype. `library` is a distribution's name, None for what is written here."""

    family: ClassVar[str]
    library: ClassVar[str | None] = None
    kinds: ClassVar[frozenset[str]]
    # Rows of the sample that settles the setting and the time a row takes; few where a row takes seconds.
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
        """Why this peer cannot run here at all, in a few words."""
        return None

    def takes(self, workload: Workload) -> bool:
        """Whether this peer runs that workload."""
        return workload.kind in self.kinds

    def runs_everything(self, workload: Workload) -> bool:
        """Whether a sample will not do, however long the whole takes."""
        return False

    def settings(self, workload: Workload) -> Sequence[Setting]:
        """Ways to run the workload."""
        return ({},)

    def sample(self, workload: Workload, num_rows: int, setting: Setting) -> Workload:
        """About `num_rows` rows on which this peer is as fast as on all of them."""
        return workload.sample(num_rows)

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        """Load the model, ready to run in that way."""
        raise AssertionError("every peer opens a model")

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        """Run all rows; outcomes in the rows' order."""
        raise AssertionError("every peer runs")

    def close(self) -> None:
        self.model = None
        free_memory()


def free_memory() -> None:
    """Give back what nobody holds any more, a GPU's memory too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Stopwatch:
    """Seconds of a `with timed()` block, the device's work included."""

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
    """Indexes of rows in batches of like rows: longest prompts first, or longest completions first."""
    keys = {
        "prompt": lambda i: (len(rows[i].prompt), rows[i].num_new),
        "new": lambda i: (rows[i].num_new, len(rows[i].prompt)),
    }
    indexes = sorted(range(len(rows)), key=keys[order], reverse=True)
    return [indexes[first : first + size] for first in range(0, len(indexes), size)]


def sample_batches(workload: Workload, num_rows: int, size: int, *, order: str = "prompt") -> Workload:
    """Whole batches of the workload, spread evenly: rows are as alike in each of them as in a batch of all rows."""
    batches = static_batches(workload.rows, size, order=order)
    count = max(1, round(num_rows / size))
    if count >= len(batches):
        return workload
    chosen = ((np.arange(count) + 0.5) * len(batches) / count).astype(int)
    rows = tuple(workload.rows[index] for number in chosen for index in batches[number])
    return replace(workload, rows=rows)


def padded(sequences: Sequence[Sequence[int]], *, side: str, device: str | torch.device) -> tuple[Any, Any]:
    """input_ids and attention_mask, int64 [B, T], padded with token 0 on the side given."""
    longest = max(map(len, sequences))
    ids, mask = (torch.zeros(len(sequences), longest, dtype=torch.int64) for _ in range(2))
    for row, tokens in enumerate(sequences):
        where = slice(longest - len(tokens), longest) if side == "left" else slice(0, len(tokens))
        ids[row, where] = torch.tensor(tokens)
        mask[row, where] = 1
    return ids.to(device), mask.to(device)


def take_turn(peer: Peer, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> Outcome:
    """Open, run, close. Leaves torch as many threads as it had: engines in C++ set the number for the whole process,
    and whoever came next would have half of them."""
    threads = torch.get_num_threads()
    peer.open(under_test, workload, setting)
    try:
        return peer.run(workload, setting)
    finally:
        peer.close()
        torch.set_num_threads(threads)
