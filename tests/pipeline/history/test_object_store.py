"""History, status and prune on a real S3 server."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.pipeline.history.test_state import set_age
from tests.pipeline.output.conftest import MakeSpec
from tests.seaweedfs import SeaweedServer
from tirazh.errors import RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.history.find_outputs import matching_outputs
from tirazh.pipeline.history.prune import prune
from tirazh.pipeline.history.state import output_status
from tirazh.pipeline.output.runs_file import read_runs
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("no_ray")]


def test_nights_in_a_bucket(s3_server: SeaweedServer, make_spec: MakeSpec) -> None:
    url = s3_server.endpoint_url
    bucket = s3_server.make_bucket("history")
    for night in ("22", "23", "24"):
        run_job(make_spec(output=f"{bucket}/labelled/2026-11-{night}", endpoint_url=url))
    run_job(make_spec(output=f"{bucket}/labelled/2026-11-24", endpoint_url=url))
    storage = Storage(url)
    outputs = matching_outputs(f"{bucket}/labelled/2026-11-2[34]", storage)
    assert [[run["rows_made"] for run in read_runs(files)] for files in outputs] == [[30], [30, 0]]
    with pytest.raises(RequestError, match="no output of a job matches"):
        matching_outputs(f"{bucket}/labelled/2025-*", storage)
    found = output_status(outputs[0], max_age_s=3_600)
    assert (found.state, found.rows_safe, found.problem) == ("complete", 30, "")

    (old,) = matching_outputs(f"{bucket}/labelled/2026-11-22", storage)
    set_age(old, 31 * 24)
    results = list(
        prune(f"{bucket}/labelled", keep_s=timedelta(days=30).total_seconds(), dry_run=False, endpoint_url=url)
    )
    assert [(each.output.rpartition("-")[2], each.removed) for each in results] == [
        ("22", True),
        ("23", False),
        ("24", False),
    ]
    left = s3_server.client().list_objects_v2(Bucket=bucket.removeprefix("s3://")).get("Contents", [])  # type: ignore[attr-defined]
    assert not [entry["Key"] for entry in left if "2026-11-22" in entry["Key"]]
    assert output_status(old).state == "missing"
