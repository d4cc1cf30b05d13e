"""What the page of an output shows besides its manifest is read where it can be, and left out where it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.report.nights import ABSTAINED, ROWS, write_night
from tirazh.pipeline.output.additions import additions_of


def test_the_least_certain_rows_and_an_error_are_found(tmp_path: Path) -> None:
    manifest, output = write_night(tmp_path)
    scan = additions_of(manifest, output).scan
    assert scan is not None
    assert (scan.scanned, scan.rows) == (ROWS, ROWS)
    labels = [scan.values[place]["label"] for place in scan.least[""]]
    assert labels[:ABSTAINED] == [None] * ABSTAINED
    assert None not in labels[ABSTAINED:]
    assert list(scan.errors) == ["column 'text' is null"]


def test_the_lease_tells_the_times_that_a_manifest_does_not_have(tmp_path: Path) -> None:
    manifest, output = write_night(tmp_path)
    lease = Path(output.lease_file(2))
    lease.parent.mkdir(parents=True)
    lease.write_text(json.dumps({"since": 1_795_397_400.0, "renewed": 1_795_397_460.0}))
    assert additions_of(manifest, output).begin is None, "the manifest knows"
    added = additions_of(manifest | {"begin": None}, output)
    assert (added.begin, added.end) == ("2026-11-23T01:30:00+00:00", "2026-11-23T01:31:00+00:00")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"since": "x"}', '{"since": 1e99, "renewed": 1}'])
def test_a_damaged_lease_tells_nothing(tmp_path: Path, content: str) -> None:
    manifest, output = write_night(tmp_path)
    lease = Path(output.lease_file(1))
    lease.parent.mkdir(parents=True)
    lease.write_text(content)
    added = additions_of(manifest | {"begin": None}, output)
    assert (added.begin, added.end) == (None, None)
