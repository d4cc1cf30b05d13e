"""tirazh without the rule that makes its rows the same in any company: steps hold only the rows that are really filled.

Everything else is the engine itself. What the rule costs is the difference between the two on the same rows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.peers.ours import Ours
from benchmarks.workloads import Workload
from model.runner import ModelRunner
from model.step import Step


class TrimmedRunner(ModelRunner):
    """Cuts a step's padding off, which is always at its end, and asks for no more logits than are read."""

    @torch.inference_mode()
    def execute(self, step: Step) -> Tensor:
        end = max(segment.row + segment.length for segment in step.segments)
        self.logit_rows = max(1, len(step.logit_rows))
        return super().execute(replace(step, token_ids=step.token_ids[:end], positions=step.positions[:end]))


class OursTrimmed(Ours):
    family = "tirazh without fixed shapes"
    kinds = frozenset({"generate"})
    runner = TrimmedRunner

    def takes(self, workload: Workload) -> bool:
        """The one workload whose steps are not full by themselves."""
        return workload.name == "ragged"
