"""Decides on the driver how a job's prompts are made: few-shot examples, label tokens and the shared prefix.

CPU tasks make prompts by the resulting `PromptConfig`, replicas receive the `EngineJob`s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tirazh.errors import RequestError, RowError
from tirazh.model.requests import EngineJob
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.classification.calibration.load import FittedCalibration
from tirazh.pipeline.classification.label_requests import LabelRequests
from tirazh.pipeline.prompts.control_marks import choose_marks
from tirazh.pipeline.prompts.encode import PromptConfig
from tirazh.pipeline.prompts.few_shot import FewShot
from tirazh.pipeline.prompts.label_prompts import prepare_labels
from tirazh.pipeline.prompts.sampled_tokens import with_tokens
from tirazh.pipeline.prompts.score_texts import shared_context
from tirazh.pipeline.prompts.shared_prefix import MIN_SHARED_TOKENS, PROBE_TEXTS, find_prefix
from tirazh.pipeline.prompts.shots import load_shots
from tirazh.pipeline.prompts.source import PromptSource
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec, ScoreSpec


@dataclass(frozen=True, slots=True)
class PreparedPrompts:
    """How prompts are made, and the jobs of the engine: one, or with several orders of few-shot examples one for each
    of them. `labels` are the requests of classify, None for other jobs, and `few_shot` its examples. `calibration` is
    that of a file, which is applied when rows are written."""

    config: PromptConfig
    engine_jobs: tuple[EngineJob, ...]
    labels: LabelRequests | None = None
    few_shot: FewShot = field(default_factory=FewShot)
    calibration: FittedCalibration | None = None

    def facts(self) -> dict[str, Any]:
        """What the manifest says about the prompts."""
        few_shot = self.few_shot.summary()
        return {"few_shot": few_shot} if few_shot is not None else {}

    @property
    def engine_job(self) -> EngineJob:
        """The first job of the engine, whose prompts `config` makes."""
        return self.engine_jobs[0]


def prepare_prompts(
    spec: JobSpec,
    tokenizer: Tokenizer,
    source: PromptSource,
    *,
    tokenizer_dir: str,
    seq_length: int,
    examples: bytes | None = None,
    overrides: Sequence[str] = (),
) -> PreparedPrompts:
    """Build the prompt configuration and the engine's jobs.

    `examples` is the content of the few-shot Parquet file. `overrides` are the input columns that set a
    row's own sampling parameters. Raises RequestError or InputError for settings that no row can
    satisfy.
    """
    config = _config_without_examples(spec, tokenizer, source)
    config = replace(config, tokenizer_dir=tokenizer_dir, seq_length=seq_length, overrides=tuple(overrides))
    if isinstance(spec, ClassifySpec):
        job = prepare_labels(spec, config, tokenizer, examples=examples)
        return PreparedPrompts(job.config, job.engine_jobs, job.requests, job.few_shot)
    if isinstance(spec, ScoreSpec):
        return _prepare_texts(config, tokenizer)
    if isinstance(spec, GenerateSpec) and spec.examples is not None and examples is not None:
        shots = load_shots(spec.examples, examples, spec.shots, config.template, config.columns)
        config = replace(config, shots=shots)
    return PreparedPrompts(config, (EngineJob(prefix_token_ids=find_prefix(config, tokenizer)),))


def _prepare_texts(config: PromptConfig, tokenizer: Tokenizer) -> PreparedPrompts:
    try:
        prefix = shared_context(config, tokenizer, PROBE_TEXTS)
    except RowError as error:
        hint = "give a shorter --template or a larger --seq-length"
        raise RequestError(f"no text can be scored: {error}; {hint}") from None
    job = EngineJob(prefix_token_ids=prefix if len(prefix) >= MIN_SHARED_TOKENS else ())
    return PreparedPrompts(replace(config, scores_text=True), (job,))


def mark_template(template: PromptTemplate, tokenizer: Tokenizer) -> PromptTemplate:
    """Make the names of control tokens that a template prints control tokens. Raises RequestError."""
    marks = choose_marks(template.source, tokenizer.control_tokens)
    if marks is None:
        raise RequestError("--template contains too many private-use characters beside control tokens; remove them")
    return PromptTemplate(template.source, marks) if marks else template


def _config_without_examples(spec: JobSpec, tokenizer: Tokenizer, source: PromptSource) -> PromptConfig:
    reserved, sampling, seed, keeps_text = 0, None, 0, False
    if isinstance(spec, GenerateSpec):
        reserved, seed = spec.max_new_tokens, spec.seed
        sampling, keeps_text = with_tokens(spec, tokenizer), schema.PROMPT in spec.keep
    return PromptConfig(
        tokenizer_dir="",
        template=mark_template(source.template, tokenizer),
        columns=source.columns,
        content_columns=source.content_columns,
        text_variable=source.text_variable,
        needs_text=isinstance(spec, ClassifySpec) or source.is_default,
        head_ids=tokenizer.prefix_token_ids,
        head_text="",
        truncate=spec.chosen_truncate,
        seq_length=0,
        reserved_tokens=reserved,
        sampling=sampling,
        seed=seed,
        overrides=(),
        keeps_text=keeps_text,
    )
