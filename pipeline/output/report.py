"""The report of a job: the self-contained page `_tirazh/report.html`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.output.names import FAILURE, MANIFEST, REPORT, OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.seal import seal_page
from tirazh.pipeline.output.unfinished import describe_unfinished, read_failure
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

_FACTS = (
    *("rows", "errors", "prompt_tokens", "completion_tokens", "seconds", "tokens_per_s", "num_parts", "replicas"),
    *("replica_deaths", "accuracy", "macro_f1", "mean_confidence", "abstained", "dtype", "model_fingerprint"),
)
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}
td.n{text-align:right;font-variant-numeric:tabular-nums}.bar{background:#4a7;height:.7rem;display:inline-block}
pre{background:#f6f6f6;padding:1rem;overflow:auto}"""


def write_report(output: str, *, against: str | None = None, endpoint_url: str | None = None) -> str:
    """Write the report of a job and return its URI.

    It shows the output `against` for comparison. The report of a job that failed, or that is not finished, says
    so, with the reason and what is finished so far. Raises OutputError for a directory that is not the
    output of a job, and for an `against` that is not the output of a finished one.
    """
    storage = Storage(endpoint_url)
    files = OutputFiles.at(output, storage)
    manifest = _manifest(files)
    if manifest is None or FAILURE in storage.names(files.own()):
        return _write_unfinished(files, against)
    other = _manifest(OutputFiles.at(against, storage)) if against is not None else None
    if against is not None and other is None:
        raise OutputError(f"{show_uri(against)} is not the output of a finished job: it has no _tirazh/{MANIFEST}")
    try:
        page = render(manifest, against=other).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(files, error) from error
    storage.write(files.own(REPORT), page)
    return files.own(REPORT)


def _write_unfinished(files: OutputFiles, against: str | None) -> str:
    plan = read_plan(files)
    if plan is None:
        raise OutputError(
            f"{show_uri(files.directory)} is not the output of a finished job: it has no _tirazh/{MANIFEST}"
        )
    if against is not None:
        raise OutputError(
            f"{show_uri(files.directory)} is not finished, so it cannot be compared; run its job again first"
        )
    page = render_unfinished(read_failure(files) or describe_unfinished(plan, files))
    files.storage.write(files.own(REPORT), page.encode())
    return files.own(REPORT)


def render_unfinished(facts: Mapping[str, Any]) -> str:
    """Render the report of a job that is not finished from the facts of `unfinished.py`.

    All values that come from data or settings are escaped.
    """
    state = "has failed" if facts.get("reason") else "is not finished"
    title = f"{facts['kind']}: {facts['output']} {state}"
    reason = facts.get("reason") or "no run has finished this output, and none has recorded a failure"
    done = [
        ("rows", f"{facts['rows']:,} of {facts['rows_total']:,}"),
        ("parts", f"{facts['num_parts']:,} of {facts['parts_total']:,}"),
        ("errors", f"{facts['errors']:,}"),
        ("time", str(facts.get("time", ""))),
    ]
    sections = [
        f"<p><strong>This job {state}:</strong> {escape(reason)}</p>",
        "<p>The parts below are kept. Run the same command again to make the others.</p>",
        _table(["", "so far"], [row for row in done if row[1]]),
        _label_table(facts.get("labels", {}), {}, ["", "so far"]),
        _counts("Errors", facts.get("error_kinds", {})),
        _settings(facts["spec"]),
    ]
    return _page(title, sections, facts["plan_id"])


def render(manifest: Mapping[str, Any], *, against: Mapping[str, Any] | None = None) -> str:
    """Render the report as HTML. All values that come from data or settings are escaped."""
    title = f"{manifest['kind']}: {manifest['output']}"
    heads = ["", "this run"] + (["the other"] if against else [])
    facts = [(name, *(_shown(page.get(name)) for page in (manifest, against) if page is not None)) for name in _FACTS]
    sections = [
        _table(heads, [row for row in facts if any(row[1:])]),
        _label_table(manifest.get("labels", {}), (against or {}).get("labels", {}), heads),
        _counts("Errors", manifest.get("error_kinds", {})),
        _sentences("Columns of the input", manifest.get("unified_columns", [])),
        _settings(manifest["spec"]),
    ]
    return _page(title, sections, manifest["plan_id"])


def _page(title: str, sections: Iterable[str], plan_id: str) -> str:
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1>{''.join(sections)}</html>"
    )
    return seal_page(page, plan_id)


def _settings(spec: Mapping[str, Any]) -> str:
    return f"<h2>Settings</h2><pre>{escape(json.dumps(spec, ensure_ascii=False, indent=1))}</pre>"


def _manifest(files: OutputFiles) -> dict[str, Any] | None:
    try:
        return dict(json.loads(files.storage.read(files.own(MANIFEST))))
    except InputError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(files, error) from error


def _damaged(files: OutputFiles, error: Exception) -> OutputError:
    return OutputError(f"{show_uri(files.own(MANIFEST))} is damaged ({type(error).__name__}); run the job again")


def _label_table(labels: Mapping[str, int], other: Mapping[str, int], heads: Sequence[str]) -> str:
    if not labels:
        return ""
    total, other_total = sum(labels.values()), sum(other.values())
    rows = []
    for name in dict.fromkeys([*labels, *other]):
        row = [name, _share(labels.get(name, 0), total)]
        rows.append((*row, _share(other.get(name, 0), other_total)) if len(heads) > 2 else tuple(row))
    return "<h2>Labels</h2>" + _table(heads, rows)


def _counts(title: str, counts: Mapping[str, int]) -> str:
    return f"<h2>{title}</h2>" + _table(["", "rows"], [(k, f"{v:,}") for k, v in counts.items()]) if counts else ""


def _sentences(title: str, sentences: Sequence[str]) -> str:
    return f"<h2>{title}</h2>" + "".join(f"<p>{escape(each)}</p>" for each in sentences) if sentences else ""


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total else "0"


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        f"<tr><td>{escape(row[0])}</td>" + "".join(f'<td class="n">{escape(cell)}</td>' for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)
