"""The history of an output has a line for each run of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tirazh.errors import JobError
from tirazh.pipeline.finetune.recorded import recorded
from tirazh.pipeline.output.leases.lease import hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.runs_file import read_runs
from tirazh.pipeline.storage.filesystem import Storage

MANIFEST = {"rows": 60, "skipped": 2, "trained_tokens": 900, "worker_deaths": 1, "seconds": 12.5}


def test_runs_that_failed_and_that_ended_well_are_recorded(tmp_path: Path) -> None:
    files = OutputFiles(Storage(), str(tmp_path))
    with pytest.raises(JobError), hold(files, lease_s=60) as lease, recorded(files, lease, "ab" * 16):
        raise JobError("training stopped: the loss is nan at step 7")
    with hold(files, lease_s=60) as lease, recorded(files, lease, "ab" * 16) as finish:
        assert [run["end"] is None for run in read_runs(files)] == [False, True]
        finish(MANIFEST)
    failed, done = read_runs(files)
    assert (failed["command"], failed["outcome"], failed["exit_code"]) == ("finetune", "failure", 1)
    assert failed["sentence"] == "training stopped: the loss is nan at step 7"
    assert (done["outcome"], done["plan_id"]) == ("success", "ab" * 16)
    assert (done["rows_made"], done["errors"], done["tokens"], done["replica_deaths"]) == (60, 2, 900, 1)
