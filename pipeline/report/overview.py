"""The figures of a whole output: volumes and speed at the top of the page; settings, files and versions at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tirazh.pipeline.report.answers import answers_of
from tirazh.pipeline.report.words import (
    bytes_text,
    clip,
    counted,
    duration_text,
    moment_of,
    name_text,
    number_text,
    percent_text,
    period_text,
    rate_text,
    share_text,
)

MOST_FILES = 50
MOST_RUNS = 10
_MOST_SETTINGS = 8_000
_MOST_QUESTIONS = 6
_MOST_VALUE = 2_000
_UNSET: tuple[Any, ...] = (None, [], {}, "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure at the top of the page: `note` is what stands below it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table with the texts of its cells; from the column `numbers` on they are numbers."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: int = 1
    note: str = ""


def key_figures(manifest: Mapping[str, Any]) -> tuple[Figure, ...]:
    """The figures that people ask for first."""
    return (*_volumes(manifest), *_quality(manifest), *_work(manifest))


def _volumes(manifest: Mapping[str, Any]) -> Iterator[Figure]:
    rows, errors = int(manifest["rows"]), int(manifest["errors"])
    given, judged = manifest.get("input_rows"), manifest.get("dropped_rows") is not None
    note = f"of {given:,} in the input" if given not in (None, rows) and not judged else ""
    yield Figure(name="Rows", value=f"{rows:,}", note=note)
    if manifest.get("kept") is not None and manifest.get("drop_reasons") is not None:
        dropped = manifest.get("dropped_rows")
        left = f"{dropped:,} dropped" if dropped is not None else ""
        yield Figure(name="Kept", value=f"{int(manifest['kept']):,}", note=left)
    note = share_text(errors, rows) if errors else ""
    yield Figure(name="Errors", value=f"{errors:,}", note=note)


def _quality(manifest: Mapping[str, Any]) -> Iterator[Figure]:
    for name, facts in list(answers_of(manifest).items())[:_MOST_QUESTIONS]:
        about = f" {name}" if name else ""
        abstained = int(facts.get("abstained") or 0)
        if abstained:
            yield Figure(
                name=f"Abstained{about}", value=f"{abstained:,}", note=share_text(abstained, int(manifest["rows"]))
            )
        if facts.get("accuracy") is not None:
            note = f"on {counted(facts['gold_rows'], 'gold row')}"
            note += "; abstained rows count as wrong" if abstained else ""
            yield Figure(name=f"Accuracy{about}", value=percent_text(facts["accuracy"]), note=note)
        if facts.get("macro_f1") is not None:
            yield Figure(name=f"Macro-F1{about}", value=f"{facts['macro_f1']:.3f}")
        if facts.get("mean_confidence") is not None:
            yield Figure(name=f"Mean confidence{about}", value=f"{facts['mean_confidence']:.2f}")


def _work(manifest: Mapping[str, Any]) -> Iterator[Figure]:
    prompt, completion = int(manifest.get("prompt_tokens") or 0), int(manifest.get("completion_tokens") or 0)
    if prompt or completion:
        note = f"{prompt:,} read, {completion:,} written" if completion else "read"
        yield Figure(name="Tokens", value=f"{prompt + completion:,}", note=note)
    if manifest.get("seconds"):
        deaths = manifest.get("replica_deaths")
        wall = manifest.get("seconds_wall")
        started = f"{duration_text(wall)} with the start" if isinstance(wall, int | float) else ""
        note = ", ".join(filter(None, [started, f"{counted(deaths, 'replica')} died" if deaths else ""]))
        yield Figure(name="Working time", value=duration_text(manifest["seconds"]), note=note)
    if manifest.get("tokens_per_s"):
        used = manifest.get("replicas")
        yield Figure(
            name="Speed",
            value=rate_text(manifest["tokens_per_s"]),
            note="tokens/s" + (f", {counted(used, 'replica')}" if used else ""),
        )


def steps_table(manifest: Mapping[str, Any]) -> Table | None:
    """The steps of a job of several steps."""
    steps = [step for step in manifest.get("steps") or [] if isinstance(step, Mapping)]
    if not steps:
        return None
    rows = tuple(
        (
            clip(step.get("name"), 80),
            clip(step.get("kind"), 20),
            number_text(step.get("rows")),
            number_text(step.get("errors")),
            number_text(int(step.get("prompt_tokens") or 0) + int(step.get("completion_tokens") or 0)),
            duration_text(step.get("own_seconds", step.get("seconds")) or 0),
        )
        for step in steps
    )
    heads = ("Step", "Kind", "Rows", "Errors", "Tokens", "Time")
    return Table(title="Steps", heads=heads, rows=rows, numbers=2)


def settings_text(spec: Mapping[str, Any]) -> str:
    """The settings as a job file, without those that are not set."""
    shown = {name: _clipped(value) for name, value in set_values(spec).items()}
    text = yaml.safe_dump(shown, allow_unicode=True, sort_keys=False, width=100)
    return text if len(text) <= _MOST_SETTINGS else f"{text[:_MOST_SETTINGS]}\n# … shortened"


def set_values(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are set; 0 is a value, while false is that of a switch that is off."""
    return {name: value for name, value in spec.items() if value is not False and not _is_unset(value)}


def _is_unset(value: Any) -> bool:
    return any(value is each or (isinstance(value, list | dict | str | tuple) and not value) for each in _UNSET)


def _clipped(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _MOST_VALUE else f"{value[:_MOST_VALUE]}…"
    if isinstance(value, Mapping):
        return {str(name)[:_MOST_VALUE]: _clipped(each) for name, each in set_values(value).items()}
    if isinstance(value, list | tuple):
        return [_clipped(each) for each in value]
    return value


def about_table(manifest: Mapping[str, Any]) -> Table:
    """What identifies the output: where it is, of which plan and which model."""
    spec = manifest["spec"]
    values = {
        "Output": manifest.get("output"),
        "Input": ", ".join(map(str, spec.get("input") or [])),
        "Model": spec.get("model"),
        **{
            name_text(name): manifest.get(name)
            for name in ("model_fingerprint", "dtype", "plan_id", "num_parts", "resumed_parts", "estimated_tokens")
        },
    }
    rows = tuple((name, clip(number_text(value), 300)) for name, value in values.items() if value not in (None, ""))
    return Table(title="Output", heads=("", ""), rows=rows)


def files_table(manifest: Mapping[str, Any]) -> Table:
    """The part files, the first ones only if they are many."""
    parts = [part for part in manifest.get("parts") or [] if isinstance(part, Mapping)]
    size = sum(int(part.get("file_bytes") or 0) for part in parts)
    rows = tuple(
        (
            clip(part.get("name"), 100),
            number_text(part.get("rows")),
            number_text(part.get("errors")),
            bytes_text(int(part.get("file_bytes") or 0)),
            clip(part.get("sha256"), 64)[:12],
        )
        for part in parts[:MOST_FILES]
    )
    more = f", of which the first {MOST_FILES} are listed" if len(parts) > MOST_FILES else ""
    return Table(
        title="Part files",
        heads=("File", "Rows", "Errors", "Size", "SHA-256 begins with"),
        rows=rows,
        note=f"{counted(len(parts), 'part file')} with {bytes_text(size)}{more}.",
    )


def versions_table(manifest: Mapping[str, Any]) -> Table | None:
    """The versions of the software that made the output."""
    versions = manifest.get("versions")
    if not isinstance(versions, Mapping) or not versions:
        return None
    rows = tuple((clip(name, 60), clip(text, 200)) for name, text in list(versions.items())[:MOST_FILES])
    return Table(title="Versions", heads=("Software", "Version"), rows=rows, numbers=9)


def runs_table(runs: Sequence[Mapping[str, Any]]) -> Table | None:
    """The last runs of an output, from `runs.jsonl`."""
    rows = []
    # A line without an end is that of the run that writes this page.
    for run in [run for run in runs if run.get("end")][-MOST_RUNS:][::-1]:
        seconds = run.get("seconds_wall") or run.get("seconds_work")
        rows.append(
            (
                period_text(moment_of(run.get("begin")), moment_of(run.get("end"))),
                clip(run.get("outcome"), 30),
                clip(run.get("host"), 60),
                number_text(run.get("rows_made")),
                duration_text(seconds) if isinstance(seconds, int | float) else "",
                clip(run.get("sentence"), 300),
            )
        )
    heads = ("When", "Outcome", "Machine", "Rows made", "Time", "Result")
    return Table(title="Runs", heads=heads, rows=tuple(rows), numbers=9) if rows else None
