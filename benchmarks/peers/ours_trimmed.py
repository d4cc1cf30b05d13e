"""tirazh without the rule that makes its rows the same in any company: steps hold only the rows that are really filled.

Everything else is the engine itself. What the rule costs is the difference between the two on the same rows.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.ours import Ours
from benchmarks.workloads import Workload
from tirazh.model.engine.runner import ModelRunner


class TrimmedRunner(ModelRunner):
    """Takes no padding, whatever the products are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_padded = False


class OursTrimmed(Ours):
    family = "tirazh without fixed shapes"
    kinds = frozenset({"generate"})
    runner = TrimmedRunner

    def takes(self, workload: Workload) -> bool:
        """The one workload whose steps are not full by themselves."""
        return workload.name == "ragged"
