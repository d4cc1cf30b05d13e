"""Five nights by the command line, as a scheduler runs them: a good one, late data, a kill, two runs at once, no data.

The history of each night tells what every run of it cost, and that no finished row was made again.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.command import end, part_files, read_rows, run_tirazh, start_tirazh, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1_800)]

ROWS, LATE_ROWS, TIMEOUT_S = 40, 5, 400.0
JOB = """\
kind: generate
model: {model}
input: news/{{{{ yesterday }}}}/*.parquet
output: labelled/{{{{ yesterday }}}}
max_new_tokens: 48
temperature: 0.8
seed: 3
part_rows: 4
slots: 4
dtype: float32
threads: 1
"""
can_append = importlib.util.find_spec("tirazh.pipeline.output.generations") is not None


class Nights:
    """A folder with a job file, the news of the days beside it, and the outputs of the nights."""

    def __init__(self, folder: Path, model: str, prompts: pa.Table) -> None:
        self.folder, self._prompts = folder, prompts
        (folder / "night.yaml").write_text(JOB.format(model=model))
        for number, day in enumerate(("23", "24", "25", "26")):
            self.write(day, "news.parquet", prompts.slice(number * 20, ROWS))
        (folder / "news" / "2026-11-27").mkdir()

    def write(self, day: str, name: str, rows: pa.Table) -> None:
        path = self.folder / "news" / f"2026-11-{day}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path)

    def late(self) -> pa.Table:
        return self._prompts.slice(100, LATE_ROWS)

    def arguments(self, day: str, *more: str) -> list[str]:
        return ["generate", "--config", str(self.folder / "night.yaml"), "--set", f"yesterday=2026-11-{day}", *more]

    def run(self, day: str, *more: str) -> subprocess.CompletedProcess[str]:
        return run_tirazh(*self.arguments(day, *more), timeout_s=TIMEOUT_S)

    def output(self, day: str) -> Path:
        return self.folder / "labelled" / f"2026-11-{day}"

    def runs(self, day: str) -> list[dict[str, Any]]:
        done = run_tirazh("history", self.output(day), "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def assert_whole(self, day: str, rows: int) -> list[dict[str, Any]]:
        """The night is complete, every row is there once, and no finished row was made twice. Returns its runs."""
        verified = run_tirazh("verify", self.output(day))
        assert verified.returncode == 0, verified.stdout + verified.stderr
        ids = [row["id"] for row in read_rows(self.output(day))] if rows else []
        assert len(ids) == len(set(ids)) == rows
        status = run_tirazh("status", self.output(day), "--max-age", "26h", "--json")
        assert status.returncode == 0, status.stdout
        assert json.loads(status.stdout)["rows_safe"] == rows
        runs = self.runs(day)
        assert sum(run["rows_made"] for run in runs) == rows
        assert all(run["end"] for run in runs)
        return runs


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, prompts: pa.Table) -> Nights:
    return Nights(tmp_path_factory.mktemp("nights"), tiny_model, prompts)


def test_a_good_night_and_the_same_command_again(
    nights: Nights, record_property: Callable[[str, object], None]
) -> None:
    assert nights.run("23").returncode == 0
    before = part_files(nights.output("23"))
    again = nights.run("23")
    assert again.returncode == 0, again.stderr
    assert part_files(nights.output("23")) == before
    first, second = nights.assert_whole("23", ROWS)
    assert (first["outcome"], second["outcome"], second["rows_made"], second["tokens"]) == ("success", "success", 0, 0)
    record_costs(record_property, "23", [first, second])


@pytest.mark.skipif(not can_append, reason="--append is not built yet")
def test_late_data_costs_only_its_own_rows(nights: Nights, record_property: Callable[[str, object], None]) -> None:
    assert nights.run("24").returncode == 0
    before = part_files(nights.output("24"))
    nights.write("24", "late.parquet", nights.late())
    done = nights.run("24", "--append")
    assert done.returncode == 0, done.stderr
    after = part_files(nights.output("24"))
    assert {name: after.get(name) for name in before} == before
    runs = nights.assert_whole("24", ROWS + LATE_ROWS)
    assert [run["rows_made"] for run in runs] == [ROWS, LATE_ROWS]
    record_costs(record_property, "24", runs)


def test_a_killed_night_is_finished_by_the_same_command(
    nights: Nights, record_property: Callable[[str, object], None]
) -> None:
    process = start_tirazh(*nights.arguments("25"))
    output = nights.output("25")
    wait_until(lambda: len(part_files(output)) >= 3, timeout_s=TIMEOUT_S, what="the third part")
    end(process)
    written = part_files(output)
    assert len(written) < ROWS // 4, "the run ended before the signal: make it longer"
    assert run_tirazh("status", output).returncode == 1
    done = nights.run("25")
    assert done.returncode == 0, done.stderr
    after = part_files(output)
    assert {name: after[name] for name in written} == written
    runs = nights.assert_whole("25", ROWS)
    assert [run["outcome"] for run in runs] == ["unknown", "success"]
    # A part may have been written between the listing and the signal; none is lost.
    assert runs[0]["rows_made"] >= 3 * 4
    record_costs(record_property, "25", runs)


def test_two_runs_at_once_make_every_row_once(nights: Nights, record_property: Callable[[str, object], None]) -> None:
    both = [start_tirazh(*nights.arguments("26")) for _ in range(2)]
    ends = [process.communicate(timeout=TIMEOUT_S) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 1], [0, 0]), ends  # the second is refused, or finds nothing left to do
    runs = nights.assert_whole("26", ROWS)
    assert [run["rows_made"] for run in runs if run["rows_made"]] == [ROWS]
    record_costs(record_property, "26", runs)


def test_a_night_without_data_is_an_empty_table(nights: Nights, record_property: Callable[[str, object], None]) -> None:
    refused = nights.run("27")
    assert refused.returncode == 2
    assert "with --allow-empty it gives an empty output" in refused.stderr
    assert not nights.output("27").exists()
    done = nights.run("27", "--allow-empty")
    assert done.returncode == 0, done.stderr
    (run,) = nights.assert_whole("27", 0)
    assert pq.read_table(nights.output("27")).num_rows == 0
    record_costs(record_property, "27", [run])


def test_the_history_of_all_nights_and_their_removal(nights: Nights) -> None:
    table = run_tirazh("history", nights.folder / "labelled" / "*")
    assert table.returncode == 0, table.stderr
    print(table.stdout)
    dry = run_tirazh("prune", nights.folder / "labelled", "--keep", "30d", "--dry-run", "--json")
    assert [json.loads(line)["removed"] for line in dry.stdout.splitlines()] == [False] * len(made(nights))
    removed = run_tirazh("prune", nights.folder / "labelled", "--keep", "0s", "--json")
    assert all(json.loads(line)["removed"] for line in removed.stdout.splitlines()), removed.stdout
    assert made(nights) == []


def made(nights: Nights) -> list[Path]:
    return sorted((nights.folder / "labelled").iterdir())


def record_costs(record_property: Callable[[str, object], None], day: str, runs: list[dict[str, Any]]) -> None:
    """Keep what each run cost: rows, tokens, seconds with start-up and seconds of work."""
    names = ("outcome", "rows_made", "tokens", "seconds_wall", "seconds_work")
    for number, run in enumerate(runs, start=1):
        record_property(f"night {day}, run {number}", {name: run[name] for name in names})
        print(f"night {day}, run {number}: {[run[name] for name in names]}")
