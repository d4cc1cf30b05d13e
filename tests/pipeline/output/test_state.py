"""The same command repairs an output: missing, damaged and unrecorded parts, manifest, gold column, leftovers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.output.conftest import MakeSpec
from tirazh.pipeline.build import run_job
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.ledger import receipt_settings
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.receipt import ReceiptSettings, make_receipt, read_footer
from tirazh.pipeline.output.seal import read_sealed_json
from tirazh.pipeline.output.state import survey
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.output.write import to_parquet
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def finished(make_spec: MakeSpec, job_output: OutputFiles) -> OutputFiles:
    run_job(make_spec(output=job_output.directory))
    return job_output


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The parts that later runs make."""
    indices: list[int] = []
    make = JobRun.make

    def recording(self: JobRun, parts: list[Any]) -> dict[str, Any]:
        indices.extend(part.index for part in parts)
        return make(self, parts)

    monkeypatch.setattr(JobRun, "make", recording)
    return indices


def part(output: OutputFiles, index: int) -> str:
    return sorted(output.parts())[index]


def cut(output: OutputFiles, uri: str) -> None:
    output.storage.write(uri, output.storage.read(uri)[:-7])


MISSING = "a part is missing"
DAMAGES: dict[str, Callable[[OutputFiles], None]] = {
    "a part is shorter": lambda output: cut(output, output.part(part(output, 1))),
    "a part is empty": lambda output: output.storage.write(output.part(part(output, 1)), b""),
    MISSING: lambda output: output.storage.remove(output.part(part(output, 1))),
    "a part is that of another part": lambda output: output.storage.write(
        output.part(part(output, 1)), output.storage.read(output.part(part(output, 0))) + b" "
    ),
    "a part is damaged and its receipt is missing": lambda output: [  # type: ignore[func-returns-value]
        output.storage.remove(output.receipt(part(output, 1))),
        cut(output, output.part(part(output, 1))),
    ],
}


@pytest.mark.parametrize("success", [True, False], ids=["with _SUCCESS", "without _SUCCESS"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_made_again_by_the_same_command(
    finished: OutputFiles, make_spec: MakeSpec, made: list[int], damage: str, success: bool
) -> None:
    before = {name: finished.storage.read(finished.part(name)) for name in finished.parts()}
    DAMAGES[damage](finished)
    if not success:
        finished.storage.remove(finished.part("_SUCCESS"))
    lines: list[str] = []
    run_job(make_spec(output=finished.directory), tell=lines.append)
    assert made == [1]
    assert [line.rpartition(": ")[2] for line in lines] == [name for name in [sorted(before)[1]] if damage != MISSING]
    assert {name: finished.storage.read(finished.part(name)) for name in finished.parts()} == before
    assert verify(finished.directory).problems == ()


@pytest.mark.parametrize("has_other_rows", [True, False], ids=["other rows", "the same rows"])
def test_a_part_of_another_version_of_the_input_counts_if_its_rows_are_those_of_the_input(
    finished: OutputFiles, make_spec: MakeSpec, made: list[int], has_other_rows: bool
) -> None:
    """The input was replaced by an earlier version while the job was resumed, and is now what it was before."""
    name = part(finished, 1)
    data = finished.storage.read(finished.part(name))
    table, footer = pq.read_table(pa.BufferReader(data)), read_footer(data)[1] | {"input_version": "earlier"}
    if has_other_rows:
        table = table.set_column(0, "text", pa.array(["earlier"] * 10, pa.string()))
    stored = to_parquet(table, footer=footer)
    receipt = make_receipt(stored, ReceiptSettings.of({"kind": "classify", "prefix": ""}))
    finished.storage.write(finished.part(name), stored)
    finished.storage.write(finished.receipt(name), receipt.to_json())
    finished.storage.remove(finished.part("_SUCCESS"))
    run_job(make_spec(output=finished.directory))
    assert made == ([1] if has_other_rows else [])
    assert verify(finished.directory).problems == ()


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b'{"part": 1}', b"[" * 50_000], ids=["missing", "empty", "cut", "other", "deep"]
)
def test_a_part_without_a_valid_receipt_gets_one_from_its_file(
    finished: OutputFiles, make_spec: MakeSpec, made: list[int], content: bytes | None
) -> None:
    uri = finished.receipt(part(finished, 2))
    before = finished.storage.read(uri)
    finished.storage.remove(finished.part("_SUCCESS"))
    finished.storage.remove(uri)
    if content is not None:
        finished.storage.write(uri, content)
    run_job(make_spec(output=finished.directory))
    assert made == []
    assert finished.storage.read(uri) == before
    assert verify(finished.directory).problems == ()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"7", b"[" * 50_000, b'{"plan_id": "x"}'], ids=repr)
def test_a_damaged_manifest_of_a_finished_output_is_made_from_the_receipts(
    finished: OutputFiles, make_spec: MakeSpec, made: list[int], content: bytes | None
) -> None:
    uri = finished.own("manifest.json")
    before = json.loads(finished.storage.read(uri))
    finished.storage.remove(uri)
    if content is not None:
        finished.storage.write(uri, content)
    assert run_job(make_spec(output=finished.directory))["parts"] == before["parts"]
    assert made == []
    assert json.loads(finished.storage.read(uri))["rows"] == 30
    assert finished.is_complete()


def test_a_finished_output_is_scored_again_for_another_gold_column(
    finished: OutputFiles, make_spec: MakeSpec, made: list[int]
) -> None:
    lines: list[str] = []
    accuracies = []
    for column in ("topic", "desk", None, "topic"):
        manifest = run_job(make_spec(output=finished.directory, gold_column=column), tell=lines.append)
        assert read_sealed_json(finished.storage.read(finished.own("manifest.json"))) == manifest
        accuracies.append(manifest.get("accuracy"))
    assert accuracies == [1.0, 0.5, None, 1.0]
    assert made == []
    assert lines == [
        f"{what}: 3 finished parts are scored again from their files"
        for what in ("--gold-column topic", "--gold-column desk", "without --gold-column", "--gold-column topic")
    ]


def test_scoring_again_notices_a_part_that_was_changed(
    finished: OutputFiles, make_spec: MakeSpec, made: list[int]
) -> None:
    """A changed file of the same size must not get a new receipt that agrees with it."""
    uri = finished.part(part(finished, 1))
    data = bytearray(finished.storage.read(uri))
    data[40] ^= 1
    finished.storage.write(uri, bytes(data))
    run_job(make_spec(output=finished.directory, gold_column="topic"))
    assert made == [1]
    assert verify(finished.directory).problems == ()


def test_parts_of_other_plans_do_not_count_and_are_removed_at_the_end(
    finished: OutputFiles, make_spec: MakeSpec, made: list[int]
) -> None:
    """A run that lost its lease may write a part of its plan at any time."""
    mine = part(finished, 1)
    late = mine[: -len("00000000.parquet")] + "0badc0de.parquet"
    finished.storage.write(finished.part(late), finished.storage.read(finished.part(mine)))
    finished.storage.write(finished.receipt(late), finished.storage.read(finished.receipt(mine)))
    finished.storage.remove(finished.part(mine))
    run_job(make_spec(output=finished.directory))
    assert made == [1]
    assert late not in finished.parts()
    assert len(finished.receipts()) == 3


def test_a_survey_writes_nothing(finished: OutputFiles, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(finished, finished.part(part(finished, 0)))
    finished.storage.remove(finished.receipt(part(finished, 1)))
    plan = read_plan(finished)
    assert plan is not None

    def refused(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a survey must not change the output")

    for name in ("write", "create", "remove", "move"):
        monkeypatch.setattr(type(finished.storage), name, refused)
    spec = make_spec(output=finished.directory)
    state = survey(plan, finished, receipt_settings(spec))
    assert [each.index for each in state.remaining] == [0]
    assert state.damaged == (plan.parts[0].name,)
    assert state.unsaved == (1,)
    assert (state.rows, state.errors, state.is_whole) == (20, 0, False)


def test_a_rerun_of_a_finished_output_changes_nothing_but_the_history(
    finished: OutputFiles, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_history(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(storage: Storage, uri: str, *rest: Any, **options: Any) -> Any:
            assert uri == finished.own("runs.jsonl") or uri.startswith(finished.leases), f"{uri} was changed"
            return change(storage, uri, *rest, **options)

        return changed

    for name in ("write", "create", "remove", "move"):
        monkeypatch.setattr(Storage, name, only_history(getattr(Storage, name)))
    assert run_job(make_spec(output=finished.directory))["rows"] == 30
