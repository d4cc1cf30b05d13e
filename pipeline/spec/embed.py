"""The spec of embed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tirazh.model.requests import Pooling
from tirazh.pipeline.settings import setting
from tirazh.pipeline.shared_settings import shared_setting
from tirazh.pipeline.spec.job import JobSpec


@dataclass(frozen=True, kw_only=True)
class EmbedSpec(JobSpec):
    """Compute the model's last hidden state of the prompt of every row."""

    text_column: str = shared_setting("text_column", more=" to embed")
    pooling: Pooling = setting(  # noqa: RUF009 - a field() call
        "last",
        "which hidden states make the embedding: that of the last token of the prompt, or the mean over all its tokens",
        identity=True,
        choices=("last", "mean"),
    )

    @property
    def kind(self) -> Literal["embed"]:
        return "embed"
