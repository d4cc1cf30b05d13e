"""The dataset card: a README.md with the YAML header of the Hugging Face Hub.

It is written to `_tirazh/`, because pyarrow, pandas and polars cannot read a directory that has a README.md among
its Parquet files. Copy it beside the parts when you upload them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import yaml

from tirazh.pipeline.report.content import Content, content_of
from tirazh.pipeline.report.evaluation_section import markdown_of, sections_of

_SHOWN_ROWS = 3
# The size categories of the Hub: the number of rows below which one applies, and its name.
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
_CYRILLIC = range(0x400, 0x530)


def render_card(
    manifest: Mapping[str, Any], sample: pa.Table | None, *, evaluations: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Render the card of a finished output. `sample` are some of its rows (`sample.py`), `evaluations` those that
    `tirazh evaluate` wrote."""
    content = content_of(manifest, sample)
    header = {
        "pretty_name": str(manifest["output"]).rstrip("/").rsplit("/", 1)[-1],
        "language": _languages(content),
        "size_categories": [size_category(int(manifest["rows"]))],
        "task_categories": ["text-generation"],
        "tags": ["synthetic"],
        "configs": [{"config_name": "default", "data_files": "part-*.parquet"}],
    }
    text = yaml.safe_dump(header, allow_unicode=True, sort_keys=False)
    sections = _sections(manifest, content)
    for section in sections_of(manifest, evaluations):
        sections += markdown_of(section)
    return f"---\n{text}---\n\n" + "\n\n".join(sections) + "\n"


def size_category(rows: int) -> str:
    """The size category of the Hub for a number of rows."""
    return next((name for bound, name in _SIZES if rows < bound), "n>1T" if rows >= 10**12 else "1B<n<10B")


def _sections(manifest: Mapping[str, Any], content: Content) -> list[str]:
    spec = manifest["spec"]
    name = str(manifest["output"]).rstrip("/").rsplit("/", 1)[-1]
    sampling = f"temperature {spec.get('temperature')}, top-p {spec.get('top_p')}, top-k {spec.get('top_k')}"
    made = [
        f"- Model: `{spec.get('model')}`, fingerprint `{manifest['model_fingerprint']}`, in {manifest['dtype']}",
        f"- Made with tirazh {manifest.get('versions', {}).get('tirazh', '')}, plan `{manifest['plan_id']}`",
        f"- Sampling: {sampling}, at most {spec.get('max_new_tokens')} tokens, seed {spec.get('seed')}",
    ]
    sections = [f"# {name}", " ".join(content.sentences)]
    sections += ["## How it was made", "\n".join(made)]
    if spec.get("template"):
        sections += ["The template of the prompts:", _fenced(spec["template"])]
    for chart in content.bars:
        lines = ["| | rows |", "|---|---:|", *(f"| {_cell(bar.name)} | {bar.count:,} |" for bar in chart.bars)]
        sections += [f"## {chart.title}", "\n".join(lines)]
    if content.figures is not None:
        sections += ["## Texts", _figures(content)]
    for row in content.rows[:_SHOWN_ROWS]:
        given = "".join(f"{name}: {value}\n" for name, value in row.columns)
        sections.append(_fenced(f"{given}{row.text}"))
    return sections


def _figures(content: Content) -> str:
    figures = content.figures
    assert figures is not None
    distinct_2 = "" if figures.distinct_2 is None else f", distinct-2 {figures.distinct_2:.3f}"
    return f"In a sample of {figures.texts:,} texts {figures.distinct:,} are distinct{distinct_2}. Some of them:"


def _languages(content: Content) -> list[str]:
    letters = [letter for row in content.rows for letter in row.text if letter.isalpha()]
    cyrillic = sum(ord(letter) in _CYRILLIC for letter in letters)
    found = []
    if cyrillic > 0.1 * len(letters):
        found.append("ru")
    if len(letters) - cyrillic > 0.1 * len(letters):
        found.append("en")
    return found


def _fenced(text: str) -> str:
    """The text as a code block, whatever backticks it has."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
