"""The report of a job: the self-contained page `_tirazh/report.html` and the quality figures that it shows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.output.names import MANIFEST, REPORT, OutputFiles
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

if TYPE_CHECKING:
    from tirazh.pipeline.output.write import Receipt

_FACTS = (
    *("rows", "errors", "prompt_tokens", "completion_tokens", "seconds", "tokens_per_s", "num_parts", "replicas"),
    *("replica_deaths", "accuracy", "macro_f1", "mean_confidence", "abstained", "dtype", "model_fingerprint"),
)
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}
td.n{text-align:right;font-variant-numeric:tabular-nums}.bar{background:#4a7;height:.7rem;display:inline-block}
pre{background:#f6f6f6;padding:1rem;overflow:auto}"""


def quality(receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Compute label counts and mean confidence and, with gold labels, accuracy and macro-F1.

    Rows with an error are not counted; a row with a null label (abstained) counts as wrong. Of generate
    only the errors are counted.
    """
    labels: Counter[str] = Counter()
    cells: Counter[tuple[str, str]] = Counter()
    kinds: Counter[str] = Counter()
    for receipt in receipts:
        labels.update(receipt.labels)
        kinds.update(receipt.error_kinds)
        cells.update({(gold, label): count for gold, label, count in receipt.confusion})
    facts: dict[str, Any] = {"error_kinds": dict(kinds.most_common(10))} if kinds else {}
    if labels:
        answered = sum(labels.values())
        confidence = sum(receipt.confidence_sum for receipt in receipts) / answered
        # Receipts count rows that abstained under the empty label.
        facts |= {"abstained": labels.pop("", 0), "labels": dict(labels.most_common()), "mean_confidence": confidence}
    if cells:
        right = sum(count for (gold, label), count in cells.items() if gold == label)
        facts |= {"gold_rows": cells.total(), "accuracy": right / cells.total(), "macro_f1": _macro_f1(cells)}
    return facts


def write_report(output: str, *, against: str | None = None, endpoint_url: str | None = None) -> str:
    """Write the report of a finished job and return its URI.

    It shows the output `against` for comparison. Raises OutputError for a directory without the
    manifest of a finished job.
    """
    storage = Storage(endpoint_url)
    files = OutputFiles.at(output, storage)
    manifest = _manifest(files)
    other = _manifest(OutputFiles.at(against, storage)) if against is not None else None
    try:
        page = render(manifest, against=other).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(files, error) from error
    storage.write(files.own(REPORT), page)
    return files.own(REPORT)


def render(manifest: Mapping[str, Any], *, against: Mapping[str, Any] | None = None) -> str:
    """Render the report as HTML. All values that come from data or settings are escaped."""
    title = f"{manifest['kind']}: {manifest['output']}"
    heads = ["", "this run"] + (["the other"] if against else [])
    facts = [(name, *(_shown(page.get(name)) for page in (manifest, against) if page is not None)) for name in _FACTS]
    sections = [
        _table(heads, [row for row in facts if any(row[1:])]),
        _label_table(manifest.get("labels", {}), (against or {}).get("labels", {}), heads),
        _counts("Errors", manifest.get("error_kinds", {})),
        f"<h2>Settings</h2><pre>{escape(json.dumps(manifest['spec'], ensure_ascii=False, indent=1))}</pre>",
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1>{''.join(sections)}</html>"
    )


def _manifest(files: OutputFiles) -> dict[str, Any]:
    try:
        return dict(json.loads(files.storage.read(files.own(MANIFEST))))
    except InputError:
        raise OutputError(
            f"{show_uri(files.directory)} is not the output of a finished job: it has no _tirazh/{MANIFEST}"
        ) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(files, error) from error


def _damaged(files: OutputFiles, error: Exception) -> OutputError:
    return OutputError(f"{show_uri(files.own(MANIFEST))} is damaged ({type(error).__name__}); run the job again")


def _macro_f1(cells: Mapping[tuple[str, str], int]) -> float:
    golds, labels = Counter[str](), Counter[str]()
    for (gold, label), count in cells.items():
        golds[gold] += count
        labels[label] += count
    # F1 per gold label. A label that is predicted but never a gold label has no F1 of its own; it
    # lowers those of the gold labels.
    scores = [2 * cells.get((gold, gold), 0) / (golds[gold] + labels[gold]) for gold in golds]
    return sum(scores) / len(scores)


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
