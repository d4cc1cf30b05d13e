"""The spec of classify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tirazh.pipeline.classification.labels import parse_labels
from tirazh.pipeline.classification.questions import Question, parse_questions
from tirazh.pipeline.settings import setting
from tirazh.pipeline.shared_settings import shared_setting
from tirazh.pipeline.spec.classify_checks import check_classification
from tirazh.pipeline.spec.job import JobSpec

Scoring = Literal["sum", "mean", "pmi"]
ShotSelection = Literal["balanced", "stratified", "nearest"]
Shape = Literal["plain", "decision"]


@dataclass(frozen=True, kw_only=True)
class ClassifySpec(JobSpec):
    """Give every row the most likely of a fixed set of labels, or an answer to each of several questions."""

    text_column: str = shared_setting("text_column", more=" to classify")
    labels: Mapping[str, Any] | None = setting(
        None,
        "label names, comma-separated, or a YAML file {label: words}; the model scores the words (verbalizer) as the "
        "continuation of the prompt. A label may have {words, aliases, description}; a/b and a/c are b and c below a",
        identity=True,
        required_unless="questions",
    )
    questions: Any = setting(  # noqa: RUF009 - a field() call
        None,
        "several questions about each text, instead of --labels: {name: {labels: ..., suffix: end of the prompt}}",
        identity="if given",
        structure=True,
    )
    examples: str | None = setting(
        None,
        "file with few-shot examples for the prompt (Parquet, JSONL or CSV); columns: the text column and `label`",
        identity=True,
        group="prompts",
        path=True,
    )
    shots: int | None = setting(
        None, "number of few-shot examples taken from --examples", identity="if given", group="prompts"
    )
    shot_tokens: int | None = setting(
        None, "token budget of the few-shot examples: as many as fit in N tokens", identity="if given", group="prompts"
    )
    shot_selection: ShotSelection = setting(  # noqa: RUF009
        "balanced",
        "which examples are taken: the same number of each label, as many as each label has in the file, or for each "
        "row the nearest ones by TF-IDF",
        identity="if given",
        choices=("balanced", "stratified", "nearest"),
        group="prompts",
    )
    permutations: int = setting(
        1,
        "number of orders of the few-shot examples; the probabilities of all orders are averaged",
        identity="if given",
        group="prompts",
    )
    seed: int = setting(0, "random seed of the choice and the order of examples", identity="if given", group="prompts")
    scoring: Scoring = setting(  # noqa: RUF009
        "sum",
        "score of a label: log-probability of its words, mean per token, or pointwise mutual information (minus the "
        "log-probability of the words after the end of the template alone; Holtzman et al. 2021)",
        identity="if given",
        choices=("sum", "mean", "pmi"),
    )
    calibrate: str | None = setting(
        None,
        "calibration of the probabilities: `contextual` (Zhao et al. 2021; also the flag alone), `batch` (Zhou et al. "
        "2023), or a file that `tirazh calibrate` wrote",
        identity=True,
        bare="contextual",
    )
    priors: Any = setting(  # noqa: RUF009
        None,
        "expected shares of the labels: `balanced`, `column:NAME` with the shares of each row, or a YAML or JSON file "
        "{label: share}",
        identity="if given",
        structure=True,
    )
    none_label: str | None = setting(
        None,
        "the label that means none of the others: a row where it is the most likely one abstains",
        identity="if given",
    )
    abstain_below: float = setting(
        0.0, "confidence threshold: the label is null if the top label's probability is below it", identity=True
    )
    target_error: float | None = setting(
        None,
        "abstain as often as needed so that the share of wrong answers stays at or below E, by the sample in the "
        "calibration file",
        identity="if given",
    )
    multi_label: float | None = setting(
        None, "add a column `labels` with every label whose probability is at least P", identity="if given"
    )
    top: int | None = setting(
        None, "keep only the K most likely labels in `probabilities`, the best first", identity="if given"
    )
    shape: Shape = setting(  # noqa: RUF009
        "plain",
        "names of the added columns: plain (label, confidence, probabilities) or decision (choice, confidence, "
        "probabilities, abstained)",
        identity="if given",
        choices=("plain", "decision"),
    )
    head: Literal["linear"] | None = setting(
        None,
        "classify by a logistic regression on the model's last hidden state, fitted on --examples (200 rows or more)",
        identity="if given",
        choices=("linear",),
    )
    search: Any = setting(  # noqa: RUF009 - a field() call
        None,
        "what `tirazh tune` tries: {template, shots, shot_selection, scoring, calibrate: lists}; only tune reads it",
        group="evaluation",
        structure=True,
    )
    gold_column: str | None = setting(
        None,
        "column with the gold (true) label; the report then contains accuracy and macro-F1",
        group="evaluation",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_classification(self)

    @property
    def kind(self) -> Literal["classify"]:
        return "classify"

    @property
    def asked(self) -> tuple[Question, ...]:
        """The questions about every row; a job with `labels` asks one, which has no name."""
        if self.questions is not None:
            return parse_questions(self.questions, abstain_below=self.abstain_below)
        return (
            Question(
                name="",
                labels=parse_labels(self.labels or {}),
                abstain_below=self.abstain_below,
                none_label=self.none_label,
                gold_column=self.gold_column,
            ),
        )

    @property
    def calibration_file(self) -> str | None:
        """The calibration file that `calibrate` names."""
        return None if self.calibrate in (None, "contextual", "batch") else self.calibrate
