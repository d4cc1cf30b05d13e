"""`tirazh relabel` that ends at any step leaves the source as it is, and the same command completes the new output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.pipeline.output.test_crash_points import MAX_STEPS, Crash, crashing_at, mark_owner_dead
from tests.pipeline.relabel.outputs import jobs_with_scores, rows_of, run, spec_of, write_news
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.relabel.command import relabel_output
from tirazh.pipeline.relabel.request import RelabelRequest
from tirazh.pipeline.storage.clock import CLOCK
from tirazh.pipeline.storage.filesystem import Storage


@pytest.fixture
def source(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(CLOCK, "sleep", lambda seconds: None)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)
    jobs_with_scores(monkeypatch, write_news(tmp_path, 30))
    return run(spec_of(tmp_path, model_dir, part_rows=10))


@pytest.mark.parametrize("place", [pytest.param("disk", marks=pytest.mark.slow), "store"])
def test_relabelling_interrupted_anywhere_is_completed_by_the_same_command(
    source: str, tmp_path: Path, place: str
) -> None:
    where = str(tmp_path / "new") if place == "disk" else f"memory://relabel-{uuid4().hex}/new"
    output = OutputFiles(Storage(), where)

    def relabel() -> dict[str, Any]:
        return relabel_output(source, where, RelabelRequest(abstain_below=0.6))

    expected = None
    for step in range(MAX_STEPS):
        output.storage.remove(output.directory, recursive=True)
        try:
            with crashing_at(step, on_disk=place == "disk"):
                relabel()
        except Crash:
            mark_owner_dead(output)
            assert not output.is_complete() or len(output.parts()) == 3
            relabel()
        else:
            break
        assert output.is_complete()
        assert len(output.parts()) == len(output.receipts()) == 3
        if step % 10 == 0:
            assert verify(where).problems == ()
        rows = rows_of(where)
        assert expected is None or rows.equals(expected)
        expected = rows
    assert step > 2 * 3 + 5
    assert verify(where).problems == ()
    assert verify(source).problems == ()
