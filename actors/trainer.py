"""One worker of a training group: Ray Train starts it and connects it to the others, then it runs
the training loop.

The loop resumes from the newest complete checkpoint on disk, whatever ended the workers before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tirazh.model.training.config import TrainingConfig

CONFIG = "config"


def train_worker(settings: dict[str, Any]) -> None:
    """Run one worker. `settings[CONFIG]` is a `tirazh.model.training.config.TrainingConfig`.

    Raises JobError when another run has taken over the output, and when the disk is full.
    """
    config: TrainingConfig = settings[CONFIG]
    if config.fence is not None:
        config.fence.guard(lambda: None)  # a group that is started again after a takeover ends at once

    import torch

    from tirazh.model.training.disk_room import explaining_full_disk
    from tirazh.model.training.loop import Training

    if config.device == "cpu":
        torch.set_num_threads(max(1, config.threads))
    folder = Path(config.checkpoints).parent
    with explaining_full_disk(folder):
        training = Training(config)
    with explaining_full_disk(folder, needed=training.checkpoint_bytes):
        training.run()
