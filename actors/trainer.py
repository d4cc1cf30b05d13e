"""One worker of a training group: Ray Train starts it and joins it to the others, the model's loop does the rest.

Where it begins is not told: the newest whole checkpoint on disk says so, whatever ended the workers before.
"""

from __future__ import annotations

from typing import Any

PLAN = "plan"


def train_worker(settings: dict[str, Any]) -> None:
    """Ray Train's function of every worker; `settings[PLAN]` is a `tirazh.model.training.config.TrainingConfig`."""
    import torch

    from tirazh.model.training.loop import Training

    plan = settings[PLAN]
    if plan.device == "cpu":
        torch.set_num_threads(max(1, plan.threads))
    Training(plan).run()
