"""On a cluster of two nodes the counters are beside the driver, so the death of the other node loses none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.pipeline.execution.two_nodes import STARTS

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_counters_are_on_the_drivers_node_and_never_go_backwards(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.pipeline.execution.two_nodes", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["beside_the_driver"] == STARTS
    assert report["rows"] == sorted(report["rows"])
    assert report["tokens"] == sorted(report["tokens"])
    assert report["manifest_rows"] == report["rows"][-1] == 400
