"""Which step makes the prompts of a job."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from tirazh.pipeline.prompts.encode import PromptConfig, PromptStep
from tirazh.pipeline.prompts.score_texts import ScoreTextStep

MakePrompts = Callable[[pa.Table], pa.Table]


def choose_prompt_step(config: PromptConfig) -> MakePrompts:
    """Return the step for a job: of score, or of classify and generate."""
    return ScoreTextStep(config) if config.scores_text else PromptStep(config)
