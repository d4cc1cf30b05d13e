"""The spec of score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tirazh.pipeline.settings import setting
from tirazh.pipeline.shared_settings import shared_setting
from tirazh.pipeline.spec.job import JobSpec


@dataclass(frozen=True, kw_only=True)
class ScoreSpec(JobSpec):
    """Compute the log-likelihood of the text of every row."""

    text_column: str = shared_setting("text_column", more=" to score")
    template: str | None = setting(
        None,
        "Jinja template of the context before the text; its variables are input columns, e.g. 'Topic: {{ topic }}'; "
        "the context itself is not scored",
        identity=True,
    )

    @property
    def kind(self) -> Literal["score"]:
        return "score"
