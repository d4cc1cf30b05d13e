"""Renders the report as one HTML page that needs no network. Every value is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
import pyarrow as pa
from markupsafe import Markup

from tirazh.pipeline.report.answers import answers_of, figures_of, label_counts
from tirazh.pipeline.report.content import Content, content_of
from tirazh.pipeline.report.evaluation_section import sections_of

_FACTS = (
    *("rows", "errors", "prompt_tokens", "completion_tokens", "seconds", "tokens_per_s", "num_parts", "replicas"),
    *("replica_deaths", "accuracy", "macro_f1", "mean_confidence", "abstained", "dtype", "model_fingerprint"),
)
_ANSWER_FACTS = ("accuracy", "macro_f1", "mean_confidence", "abstained")


def render(
    manifest: Mapping[str, Any],
    *,
    sample: pa.Table | None = None,
    comparison: Markup | None = None,
    evaluations: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Render the report of a finished output.

    `sample` are some of its rows (`sample.py`). `comparison` is the section of a comparison with other outputs
    (`pipeline/drift/section.py`). `evaluations` are those that `tirazh evaluate` wrote.
    """
    figures = figures_of(manifest)
    names = [
        *_FACTS,
        *(f"{question} {name}" for question in answers_of(manifest) if question for name in _ANSWER_FACTS),
    ]
    rows = [(name, _shown(figures.get(name))) for name in names]
    facts = {"heads": ["", "this run"], "rows": [row for row in rows if any(row[1:])]}
    content = content_of(manifest, sample)
    notes = manifest.get("unified_columns") or []
    sections = sections_of(manifest, evaluations)
    return _template().render(content=content, facts=facts, comparison=comparison, notes=notes, sections=sections)


def render_unfinished(facts: Mapping[str, Any]) -> str:
    """Render the report of a job that is not finished from the facts of `unfinished.py`."""
    state = "has failed" if facts.get("reason") else "is not finished"
    reason = facts.get("reason") or "no run has finished this output, and none has recorded a failure"
    done = [
        ("rows", f"{facts['rows']:,} of {facts['rows_total']:,}"),
        ("parts", f"{facts['num_parts']:,} of {facts['parts_total']:,}"),
        ("errors", f"{facts['errors']:,}"),
        ("time", str(facts.get("time", ""))),
    ]
    counts = (("Labels so far", label_counts(facts)), ("Errors", facts.get("error_kinds") or {}))
    content = Content(
        title=f"{facts['kind']}: {facts['output']} {state}",
        sentences=(
            f"This job {state}: {reason}",
            "The parts below are kept. Run the same command again to make the others.",
        ),
        bars=tuple((title, tuple(each.items())) for title, each in counts if each),
        settings=facts["spec"],
    )
    table = {"heads": ["", "so far"], "rows": [row for row in done if row[1]]}
    return _template().render(content=content, facts=table, comparison=None, notes=[], sections=())


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["settings_text"] = lambda settings: json.dumps(settings, ensure_ascii=False, indent=1)
    part = environment.from_string(_source("evaluation.html.jinja"))
    environment.globals["evaluation"] = lambda sections: Markup(part.render(sections=sections))
    return environment.from_string(_source("page.html.jinja"))


def _source(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)
