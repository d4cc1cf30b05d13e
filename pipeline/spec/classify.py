"""The spec of classify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tirazh.pipeline.label_checks import check_labels
from tirazh.pipeline.settings import check_fraction, setting
from tirazh.pipeline.shared_settings import shared_setting
from tirazh.pipeline.spec.job import JobSpec


@dataclass(frozen=True, kw_only=True)
class ClassifySpec(JobSpec):
    """Give every row the most likely of a fixed set of labels."""

    text_column: str = shared_setting("text_column", more=" to classify")
    labels: Mapping[str, str] = setting(
        help="label names, comma-separated, or a YAML file {label: words}; the model scores the words "
        "(verbalizer) as the continuation of the prompt",
        identity=True,
    )
    examples: str | None = setting(
        None,
        "file with few-shot examples for the prompt (Parquet, JSONL or CSV); columns: the text column and `label`",
        identity=True,
        path=True,
    )
    gold_column: str | None = setting(
        None,
        "column with the gold (true) label; the report then contains accuracy and macro-F1",
        group="evaluation",
    )
    calibrate: bool = setting(
        False,
        "contextual calibration (Zhao et al. 2021): divide each label's probability by its probability for an empty "
        "text",
        identity=True,
    )
    abstain_below: float = setting(
        0.0, "confidence threshold: the label is null if the top label's probability is below it", identity=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels)
        check_fraction("abstain_below", self.abstain_below)

    @property
    def kind(self) -> Literal["classify"]:
        return "classify"
