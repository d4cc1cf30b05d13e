"""Renders the report as one HTML page that needs no network and no scripts. Every value is escaped.

`page.html.jinja` is the page, `shapes.html.jinja` its tables and diagrams, `style.css` its look. Another package adds
a section through `comparison`, HTML that it has rendered itself with autoescape; the classes of `style.css` are for it,
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
import pyarrow as pa
from markupsafe import Markup

from tirazh.pipeline.report.answers import Bar, BarChart, chart_of, label_counts
from tirazh.pipeline.report.charts import timeline_charts
from tirazh.pipeline.report.content import content_of, count_charts
from tirazh.pipeline.report.evaluation_section import sections_of
from tirazh.pipeline.report.least_certain import Scan
from tirazh.pipeline.report.overview import (
    Figure,
    about_table,
    files_table,
    key_figures,
    runs_table,
    settings_text,
    steps_table,
    versions_table,
)
from tirazh.pipeline.report.rows import row_columns, sampled_rows
from tirazh.pipeline.report.sections import error_views, plain_rows, question_views, sample_note
from tirazh.pipeline.report.verdict import MEANING, Verdict
from tirazh.pipeline.report.words import clip, duration_text, moment_of, period_text

MOST_BYTES = 300_000
# The characters of a text of a row, the rows of the sample, and the questions; the next ones if a page gets larger than
# `MOST_BYTES`.
_DETAILS = ((320, 12, 20), (120, 8, 8), (40, 4, 4), (0, 0, 2))
_MOST_LABELS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Additions:
    """What a page shows besides the manifest.

    `scan` has the least certain rows and rows with an error. `begin` and `end` are times as ISO texts, where the
    manifest has none. `runs` are the runs of the output, the last one last. `comparison` is a section of HTML that goes
    behind the verdict, and `reasons` are sentences that make the verdict "look here".
    """

    scan: Scan | None = None
    begin: str | None = None
    end: str | None = None
    runs: Sequence[Mapping[str, Any]] = ()
    comparison: Markup | None = None
    reasons: Sequence[str] = ()


def render(
    manifest: Mapping[str, Any],
    *,
    sample: pa.Table | None = None,
    comparison: Markup | None = None,
    evaluations: Sequence[Mapping[str, Any]] = (),
    additions: Additions | None = None,
) -> str:
    """Render the report of a finished output.

    `sample` are some of its rows (`sample.py`). `comparison` is the section of a comparison with other outputs
    (`pipeline/drift/section.py`). `evaluations` are those that `tirazh evaluate` wrote.
    """
    more = additions or Additions()
    content = content_of(manifest, sample, more=more.reasons)
    columns = row_columns(manifest)
    rows = sampled_rows(sample, columns) if sample is not None else []
    evaluated = sections_of(manifest, evaluations)
    fixed = {
        "title": _title(manifest),
        "kind": manifest["kind"],
        "output": clip(manifest["output"], 300),
        "verdict": content.verdict,
        "meaning": MEANING,
        "when": _when(manifest, more),
        "notes": content.notes,
        "remarks": [clip(each, 400) for each in manifest.get("unified_columns") or []],
        "figures": key_figures(manifest),
        "comparison": comparison if comparison is not None else more.comparison,
        "charts": count_charts(manifest),
        "steps": steps_table(manifest),
        "timeline": timeline_charts(manifest.get("timeline")),
        "settings": settings_text(manifest["spec"]),
        "about": about_table(manifest),
        "tables": [each for each in (files_table(manifest), versions_table(manifest)) if each is not None],
        "runs": runs_table(more.runs),
    }
    page = ""
    for most, count, asked in _DETAILS:
        questions = question_views(manifest, columns, more.scan, rows, most=most)[:asked]
        page = _template().render(
            **fixed,
            questions=questions,
            shown_evaluations=evaluated[:asked],
            errors=error_views(manifest, columns, more.scan, most=most),
            rows=() if questions else plain_rows(rows, columns, count=count, most=2 * most),
            rows_note=sample_note(rows, columns, content.figures),
        )
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def render_unfinished(facts: Mapping[str, Any]) -> str:
    """Render the report of a job that is not finished from the facts of `unfinished.py`."""
    has_failed = bool(facts.get("reason"))
    state = "has failed" if has_failed else "is not finished"
    reason = clip(facts.get("reason") or "no run has finished this output, and none has recorded a failure", 2_000)
    first, _, rest = reason.partition("; ")
    verdict = Verdict(
        state="failed" if has_failed else "unfinished",
        headline=f"This job {state}: {first}{'.' if rest else ''}",
        reasons=(f"{rest[:1].upper()}{rest[1:]}.",) if rest else (),
    )
    done, total = int(facts["rows"]), int(facts["rows_total"])
    figures = (
        Figure(name="Rows so far", value=f"{done:,} of {total:,}"),
        Figure(name="Parts", value=f"{facts['num_parts']:,} of {facts['parts_total']:,}"),
        Figure(name="Errors", value=f"{facts['errors']:,}"),
    )
    labels = list(label_counts(facts).items())
    charts = [
        chart_of(
            "Labels so far", [(name, count, "value") for name, count in labels[:_MOST_LABELS]], total=done, head="Label"
        )
    ]
    moment = moment_of(facts.get("time"))
    return _template().render(
        title=f"{facts['kind']}: {facts['output']} {state}",
        kind=facts["kind"],
        output=clip(facts["output"], 300),
        verdict=verdict,
        when=period_text(None, moment),
        go_on=f"tirazh run {facts['kind']}.yaml" if "output" in facts["spec"] else "",
        notes=(),
        remarks=(),
        figures=figures,
        progress=_progress(done, total),
        comparison=None,
        charts=[*(charts if labels else []), *count_charts(facts)],
        rows_note="",
        shown_evaluations=(),
        steps=None,
        timeline=(),
        settings=settings_text(facts["spec"]),
        about=None,
        tables=[],
        runs=None,
        questions=(),
        errors=error_views(facts, row_columns({"spec": {}}), None, most=0),
        rows=(),
    )


def _progress(done: int, total: int) -> BarChart:
    counts = (("written", done), ("missing", max(0, total - done)))
    chart = chart_of(
        "Progress", [(name, count, "value") for name, count in counts], total=max(done, total), head="Rows"
    )
    none = chart.bars[1]
    missing = Bar(name=none.name, count=none.count, share=none.share, width=none.width, kind="none")
    return BarChart(title=chart.title, head=chart.head, bars=(chart.bars[0], missing))


def _title(manifest: Mapping[str, Any]) -> str:
    name = str(manifest["output"]).rstrip("/").rsplit("/", 1)[-1]
    return f"{clip(name, 100)}: report of {manifest['kind']}"


def _when(manifest: Mapping[str, Any], more: Additions) -> str:
    """When the last run began and ended."""
    begin, end = moment_of(manifest.get("begin")), moment_of(manifest.get("end"))
    took = duration_text((end - begin).total_seconds()) if begin and end and end > begin else ""
    period = period_text(begin or moment_of(more.begin), end or moment_of(more.end))
    return f"{period} ({took})" if took else period


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    # A file of this package, not of a user.
    environment.globals["style"] = Markup(_source("style.css"))
    return environment.get_template("page.html.jinja")


def _source(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
