"""The jobs of trials: the search space of a job, and the spec of each prompt setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tirazh.pipeline.classification.labels import words_of
from tirazh.pipeline.prompts.source import CLASSIFY_TEMPLATE, GENERATE_TEMPLATE, PromptSource
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.tuning.space import GIVEN, JOB, NO_CALIBRATION, PromptChoice, ScoreChoice, SearchSpace, parse_space
from tirazh.pipeline.tuning.templates import built_in_templates


def job_space(spec: ClassifySpec, search: Any, *, text_column: str, texts: Sequence[str]) -> SearchSpace:
    """The space of `search`, or the default one for None. `texts` show the language. Raises RequestError."""
    template = spec.template or _default_template(text_column)
    given = PromptChoice(JOB, template, 0) if spec.examples is None else PromptChoice(GIVEN, template, None)
    words = list(words_of(spec.labels or {}).values())
    return parse_space(
        search,
        given=given,
        given_score=ScoreChoice(spec.scoring, spec.calibrate or NO_CALIBRATION),
        templates=built_in_templates(words, text_column=text_column, texts=texts),
    )


def trial_spec(spec: ClassifySpec, prompt: PromptChoice, *, examples: str) -> ClassifySpec:
    """The job with the prompts of a trial; `examples` is the file of the pool. It has no calibration: `score_spec`."""
    plain = replace(spec, search=None)
    if prompt.shots is None:
        return plain
    is_nearest = prompt.shot_selection == "nearest"
    return replace(
        plain,
        template=spec.template if prompt.name == JOB else prompt.template,
        examples=examples if prompt.shots else None,
        shots=prompt.shots or None,
        shot_tokens=None,
        shot_selection=prompt.shot_selection,
        permutations=spec.permutations if prompt.shots and not is_nearest else 1,
    )


def score_spec(spec: ClassifySpec, score: ScoreChoice, *, calibration: str) -> ClassifySpec:
    """The job with the scoring and calibration of a trial; `calibration` is the file of a fitted one."""
    calibrate = {NO_CALIBRATION: None, "fitted": calibration}.get(score.calibrate, score.calibrate)
    return replace(spec, scoring=score.scoring, calibrate=calibrate)


def text_column_of(spec: ClassifySpec, source: PromptSource) -> str:
    """The column with the text of a row."""
    return source.text_column or spec.text_column


def _default_template(text_column: str) -> str | None:
    """The default template with the column's name; None if the name cannot be a variable."""
    if not text_column.isidentifier():
        return None
    return CLASSIFY_TEMPLATE.replace(GENERATE_TEMPLATE, f"{{{{ {text_column} }}}}")
