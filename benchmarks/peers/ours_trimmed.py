"""tirazh without the rule that makes its rows the same in any company: steps hold only the rows that are really filled.

Everything else is the engine itself. What the rule costs is the difference between the two on the same rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.peers.ours import Ours
from benchmarks.workloads import Workload
from model.runner import ModelRunner
from model.step import Step


class TrimmedRunner(ModelRunner):
    """Takes no padding, whatever the products are."""

    @torch.inference_mode()
    def execute(self, step: Step) -> Tensor:
        self._is_padded = False
        return super().execute(step)


class OursTrimmed(Ours):
    family = "tirazh without fixed shapes"
    kinds = frozenset({"generate"})
    runner = TrimmedRunner

    def takes(self, workload: Workload) -> bool:
        """The one workload whose steps are not full by themselves."""
        return workload.name == "ragged"
