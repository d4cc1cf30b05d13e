"""tirazh without fixed step shapes: a step holds only its filled rows, so results may depend on neighbouring rows.

Everything else is the engine itself. The difference between the two on the same rows is the cost of fixed shapes.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.ours import Ours
from benchmarks.workloads import Workload
from tirazh.model.engine.runner import ModelRunner


class TrimmedRunner(ModelRunner):
    """Adds no padding, even where the matmuls need it for identical rounding."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_padded = False


class OursTrimmed(Ours):
    family = "tirazh without fixed shapes"
    kinds = frozenset({"generate"})
    runner = TrimmedRunner

    def takes(self, workload: Workload) -> bool:
        """Only the workload whose steps are not full anyway."""
        return workload.name == "ragged"
