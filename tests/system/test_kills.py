"""A run that is killed: finished parts are kept, and rerunning the command makes only the missing ones."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.command import end, part_files, read_rows, run_tirazh, wait_until
from tests.system.conftest import SAMPLING
from tirazh import generate
from tirazh.jobs.cli import main

PART_ROWS = 8
NUM_PARTS = 15  # 120 prompts
# With one slot the parts of a run are written one after the other, seconds apart from its end.
SETTINGS: dict[str, Any] = {**SAMPLING, "part_rows": PART_ROWS, "slots": 1}


@pytest.fixture
def command(prompts_file: Path, tiny_model: str, tmp_path: Path) -> list[object]:
    flags = {"input": prompts_file, "output": tmp_path / "out", "model": tiny_model, **SETTINGS}
    return ["generate", *(text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", value))]


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_rerunning_a_killed_command_makes_only_the_missing_parts(
    number: signal.Signals,
    start: Callable[..., subprocess.Popen[str]],
    command: list[object],
    sampled_rows: list[dict[str, object]],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    process = start(*command)
    wait_until(lambda: len(part_files(output)) >= 2, timeout_s=300, what="the second part")
    _, err = end(process, number=number)
    written = part_files(output)
    assert 2 <= len(written) < NUM_PARTS, "the run ended before the signal: make it longer"
    assert not (output / "_SUCCESS").exists()
    assert main(["verify", str(output)]) != 0
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command" in err
        assert "Traceback" not in err

    done = run_tirazh(*command)
    assert done.returncode == 0, done.stderr
    after = part_files(output)
    assert len(after) == NUM_PARTS
    assert {name: after[name] for name in written} == written
    assert read_rows(output) == sampled_rows
    assert main(["verify", str(output)]) == 0


@pytest.fixture(scope="module")
def small_job(prompts_file: Path, tiny_model: str, ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a finished job of two parts."""
    output = tmp_path_factory.mktemp("small") / "out"
    run_small_job(prompts_file, tiny_model, output)
    return output


def run_small_job(source: Path, model: str, output: Path) -> dict[str, Any]:
    return generate(input=source, output=output, model=model, **{**SETTINGS, "max_new_tokens": 2, "limit": 16})


@pytest.mark.ray
def test_a_finished_job_is_not_run_again(small_job: Path, prompts_file: Path, tiny_model: str) -> None:
    before = part_files(small_job)
    manifest = run_small_job(prompts_file, tiny_model, small_job)
    assert part_files(small_job) == before
    assert manifest["rows"] == 16


@pytest.mark.ray
def test_verify_detects_a_changed_byte(small_job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = shutil.copytree(small_job, tmp_path / "out")
    assert main(["verify", str(output)]) == 0
    part = next(output.glob("part-00001-*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    capsys.readouterr()
    assert main(["verify", str(output)]) == 1
    said = capsys.readouterr()
    assert part.name in said.out + said.err
