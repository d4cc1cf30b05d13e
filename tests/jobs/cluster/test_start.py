"""The first process of a submitted job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY


def start(folder: Path, needs: dict[str, Any], *, job: str = "kind: nonsense\n", **variables: str) -> tuple[int, str]:
    """The exit code and stderr of a job in a working directory."""
    if needs:
        (folder / "needs.json").write_text(json.dumps(needs))
        (folder / "job.yaml").write_text(job)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    done = subprocess.run(
        [sys.executable, "-m", "tirazh.jobs.cluster.start", "tirazh-out-123456"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_missing_package_is_one_sentence(tmp_path: Path) -> None:
    code, text = start(tmp_path, {"requirements": {"no-such-package": ">=1"}})
    assert (code, text.count("\n")) == (2, 1)
    assert text.startswith("tirazh: machine ")
    assert "of the cluster has no no-such-package: install" in text


def test_a_refusal_is_told_to_the_receivers_of_the_job(tmp_path: Path) -> None:
    receiver = tmp_path / "receiver.sh"
    receiver.write_text("#!/bin/sh\ncat >> told.json\n")
    receiver.chmod(0o755)
    notify = json.dumps({"command": [str(receiver)]})
    needs = {"requirements": {"no-such-package": ">=1"}}
    code, text = start(tmp_path, needs, job="kind: classify\noutput: labelled\n", TIRAZH_NOTIFY=notify)
    told = json.loads((tmp_path / "told.json").read_text())
    assert (code, text.count("\n")) == (2, 1)
    assert (told["kind"], told["output"], told["outcome"], told["exit_code"]) == ("classify", "labelled", "failure", 2)
    assert f"tirazh: {told['sentence']}\n" == text


def test_another_python_is_one_sentence(tmp_path: Path) -> None:
    code, text = start(tmp_path, {"python": "3.99", "requirements": {}})
    assert code == 2
    assert "and the job was submitted from Python 3.99: submit it from Python" in text


def test_a_machine_with_everything_runs_the_job(tmp_path: Path) -> None:
    code, text = start(tmp_path, {"requirements": {"pyarrow": ""}})
    assert code == 2
    assert text.startswith("tirazh: job.yaml line 1: kind must be")


def test_a_job_in_an_image_is_read_from_its_variables(tmp_path: Path) -> None:
    needs = json.dumps({"requirements": {"pyarrow": ""}})
    code, text = start(tmp_path, {}, TIRAZH_NEEDS=needs, TIRAZH_JOB='{"kind": "nonsense"}')
    assert code == 2
    assert "job.yaml" in text
    assert "kind must be" in text


def test_the_job_is_read_with_its_section_notify(tmp_path: Path) -> None:
    code, text = start(tmp_path, {"requirements": {}}, job="kind: classify\noutput: out\n", TIRAZH_NOTIFY='"hunter2"')
    assert code == 2
    assert "hunter2" not in text
    assert "notify" not in (tmp_path / "job.yaml").read_text()
