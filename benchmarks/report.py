"""Write the report of a run: `results.json` with every number, `RESULTS.md` to read, `chart.svg` for the README."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.ceilings import Ceiling
from benchmarks.chart import draw_chart
from benchmarks.check_outputs import Check
from benchmarks.experiment import Experiment
from benchmarks.figures import Figure
from benchmarks.goals import Goal
from benchmarks.machine import Machine
from benchmarks.model_under_test import WIDTHS
from benchmarks.widths import fastest, pairs_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All results of a run.

    `goals` are those of the workloads; experiments have their own. `ceilings` are all measurements in their order.
    `absent` maps a peer that could not run to the reason.
    """

    command: str
    commit: str
    shape: str
    device: str
    machine: Machine
    ceilings: Sequence[Ceiling]
    checks: Sequence[Check]
    figures: Sequence[Figure]
    goals: Sequence[Goal]
    experiments: Sequence[Experiment]
    minutes: float
    absent: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "commit": self.commit,
            "shape": self.shape,
            "device": self.device,
            "machine": self.machine.to_dict(),
            "ceilings": [asdict(ceiling) for ceiling in self.ceilings],
            "checks": [check.to_dict() for check in self.checks],
            "figures": [figure.to_dict() for figure in self.figures],
            "goals": [goal.to_dict() for goal in self.goals],
            "experiments": [experiment.to_dict() for experiment in self.experiments],
            "minutes": self.minutes,
            "absent": self.absent,
        }


def write_report(report: Report, directory: Path) -> None:
    """Write the three files into `directory`, replacing earlier ones."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
    (directory / "results.json").write_text(text + "\n", encoding="utf-8")
    (directory / "RESULTS.md").write_text(as_markdown(report), encoding="utf-8")
    (directory / "chart.svg").write_text(draw_chart(report.figures), encoding="utf-8")


def as_markdown(report: Report) -> str:
    """Return the text of RESULTS.md."""
    workloads = list(dict.fromkeys(figure.workload for figure in report.figures))
    goals = [*report.goals, *(goal for experiment in report.experiments for goal in experiment.goals)]
    parts = [_heading(report), _goals(goals), _widths(report.figures), _checks(report.checks)]
    parts += [_workload(name, [f for f in report.figures if f.workload == name]) for name in workloads]
    parts += [_experiment(experiment) for experiment in report.experiments]
    parts.append(_absent(report.absent))
    return "\n".join(part for part in parts if part)


def _heading(report: Report) -> str:
    machine = report.machine
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    lines = [
        "# Benchmark results",
        "",
        f"`{report.command}` at commit {report.commit}; shape {report.shape} on {report.device}, random weights.",
        f"Figures are medians of the rounds, with the smallest and largest in brackets. Engines took turns in every "
        f"round, each at the dtype and setting that was fastest on a sample. "
        f"Where only a sample of the rows was timed, its seconds are scaled to all rows by the least arithmetic that "
        f"both need (labels: by the number of rows); rates and ratios are those of all rows. "
        f"The run took {report.minutes:.0f} minutes.",
        "",
        f"- Processor: {machine.processor}, {machine.num_cores} cores, {machine.num_threads} threads used; "
        f"{machine.instructions}; {machine.memory_gib} GiB. GPU: {machine.gpu}.",
        f"- {machine.system}, Python {machine.python}, {libraries}. Load average at the start: "
        f"{machine.load_average:.1f}{_busy(machine)}.",
    ]
    dtypes = dict.fromkeys(ceiling.dtype for ceiling in report.ceilings)
    lines += [_ceiling(dtype, [c for c in report.ceilings if c.dtype == dtype]) for dtype in dtypes]
    return "\n".join([*lines, ""])


def _ceiling(dtype: str, measured: Sequence[Ceiling]) -> str:
    matmuls, few_rows, memory = (
        _spread([getattr(ceiling, name) / 1e9 for ceiling in measured])
        for name in ("flops", "decode_flops", "bytes_per_second")
    )
    return (
        f"- Ceiling, {dtype}, measured {len(measured)} times (a share of the limit uses those around its turn): "
        f"{matmuls} GFLOP/s, at 32 rows {few_rows}; memory {memory} GB/s, copying or reading."
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def _busy(machine: Machine) -> str:
    return " (**the machine was busy: do not use these figures**)" if machine.load_average > 0.5 else ""


def _goals(goals: Sequence[Goal]) -> str:
    if not goals:
        return ""
    lines = ["## Goals", "", "| goal | at least | measured | |", "|---|--:|--:|---|"]
    for goal in goals:
        measured = "–" if goal.measured is None else f"{goal.measured:.2f}"
        verdict = {True: "met", False: "**not met**", None: "not run"}[goal.is_met]
        lines.append(f"| {goal.text} | {goal.goal:g} | {measured} | {verdict} |")
    return "\n".join([*lines, ""])


def _widths(figures: Sequence[Figure]) -> str:
    """Return the table of our dense engine beside the best peer, for every workload and width of numbers."""
    pairs = [pair for pair in pairs_of(figures) if pair.peer is not None]
    if not pairs:
        return ""
    lines = [
        "## The best peer, by width of numbers",
        "",
        "Dense model. The peer is the fastest one whose numbers are as wide as ours or wider.",
        "",
        "| workload | numbers | tirazh | best peer | its rate | tirazh is … times as fast |",
        "|---|---|--:|---|--:|--:|",
    ]
    for pair in pairs:
        assert pair.peer is not None
        ours = "–" if pair.ours is None else f"{pair.ours.rate:,.4g} {pair.ours.unit}"
        ratio = "" if pair.ratio is None else f"{pair.ratio:.2f}"
        peer = f"{pair.peer.peer} | {pair.peer.rate:,.4g}"
        lines.append(f"| {pair.workload} | {pair.dtype} | {ours} | {peer} | {ratio} |")
    return "\n".join([*lines, ""])


def _checks(checks: Sequence[Check]) -> str:
    if not checks:
        return ""
    lines = [
        "## The same answers",
        "",
        "Checked before timing: rows (for labels: best labels) that equal those of the float32 reference.",
        "",
        "| workload | peer | reference | equal | |",
        "|---|---|---|--:|---|",
    ]
    for check in checks:
        verdict = {True: "", False: "**differs** ", None: "narrower dtype; "}[check.is_good]
        equal = f"{check.num_equal} of {check.num_rows}"
        remark = f"{verdict}{check.remark}".strip()
        lines.append(f"| {check.workload} | {check.peer} | {check.reference} | {equal} | {remark} |")
    return "\n".join([*lines, ""])


def _workload(name: str, figures: Sequence[Figure]) -> str:
    unit = figures[0].unit
    lines = [
        f"## {name}",
        "",
        *_widths_without_ceiling(figures),
        f"| peer | layers | run as | rows | {unit} | share of limit | tirazh is … times as fast |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    by_time = sorted(figures, key=lambda figure: figure.whole_time)
    for figure in by_time:
        ours = [f for f in by_time if f.is_ours and f.layers == figure.layers]
        # A peer with wider numbers than int8 is compared with ours that are wider too, where there are any.
        as_wide = [f for f in ours if f.dtype != "int8" or WIDTHS[figure.dtype] == WIDTHS["int8"]]
        lines.append(_figure(figure, fastest(as_wide or ours)))
    return "\n".join([*lines, ""])


def _widths_without_ceiling(figures: Sequence[Figure]) -> list[str]:
    others = sorted({figure.dtype for figure in figures if figure.dtype != figure.ceiling_dtype})
    return (
        [f"The limit of {' and '.join(others)} is computed from the rate of float32 arithmetic.", ""] if others else []
    )


def _figure(figure: Figure, best_of_ours: Figure | None) -> str:
    version = f" ({figure.version})" if figure.version else ""
    run_as = ", ".join(f"{name} {value}" for name, value in figure.setting.items())
    is_whole = figure.num_rows == figure.num_rows_whole
    rows = f"{figure.num_rows}" if is_whole else f"sample of {figure.num_rows} of {figure.num_rows_whole}"
    start = f"| {figure.peer}{version} | {figure.layers} | {run_as} | {rows} |"
    if not figure.seconds:
        return f"{start} failed: {figure.failure} | | |"
    spread = f"{figure.rate:,.4g} ({min(figure.rates):,.4g}–{max(figure.rates):,.4g})"
    ratio = "" if figure.is_ours or best_of_ours is None else f"{best_of_ours.times_as_fast_as(figure):.2f}"
    return f"{start} {spread} | {figure.share_of_limit:.0%} | {ratio} |"


def _experiment(experiment: Experiment) -> str:
    columns = experiment.columns
    lines = [f"## {experiment.name}", "", experiment.how, ""]
    lines += [f"| {' | '.join(columns)} |", f"|{'|'.join(['---'] + ['--:'] * (len(columns) - 1))}|"]
    lines += [f"| {' | '.join(map(_shown, row))} |" for row in experiment.rows]
    return "\n".join([*lines, ""])


def _shown(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _absent(absent: dict[str, str]) -> str:
    if not absent:
        return ""
    lines = ["## Not run", "", *(f"- {name}: {reason}" for name, reason in absent.items())]
    return "\n".join([*lines, ""])
