"""A run that is killed: finished parts are kept, and rerunning the command makes only the missing ones."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.command import end, part_files, read_rows, run_tirazh, wait_until
from tirazh import generate

PART_ROWS = 8
NUM_PARTS = 15  # 120 prompts
SETTINGS: dict[str, Any] = {
    "max_new_tokens": 96,
    "temperature": 0.8,
    "seed": 3,
    "part_rows": PART_ROWS,
    "slots": 4,
    "dtype": "float32",
    "threads": 1,
}


@pytest.fixture(scope="module")
def source(prompts: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.parquet"
    pq.write_table(prompts, path)
    return path


@pytest.fixture
def undisturbed(source: Path, tiny_model: str, ray_local: None, tmp_path: Path) -> list[dict[str, object]]:
    generate(input=source, output=tmp_path / "undisturbed", model=tiny_model, **SETTINGS)
    return read_rows(tmp_path / "undisturbed")


@pytest.fixture
def command(source: Path, tiny_model: str, tmp_path: Path) -> list[object]:
    flags = {"input": source, "output": tmp_path / "out", "model": tiny_model, **SETTINGS}
    return ["generate", *(text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", value))]


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_rerunning_a_killed_command_makes_only_the_missing_parts(
    number: signal.Signals,
    start: Callable[..., subprocess.Popen[str]],
    command: list[object],
    undisturbed: list[dict[str, object]],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    process = start(*command)
    wait_until(lambda: len(part_files(output)) >= 2, timeout_s=300, what="the second part")
    _, err = end(process, number=number)
    written = part_files(output)
    assert 2 <= len(written) < NUM_PARTS, "the run ended before the signal: make it longer"
    assert not (output / "_SUCCESS").exists()
    assert run_tirazh("verify", output).returncode != 0
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command" in err
        assert "Traceback" not in err

    done = run_tirazh(*command)
    assert done.returncode == 0, done.stderr
    after = part_files(output)
    assert len(after) == NUM_PARTS
    assert {name: after[name] for name in written} == written
    assert read_rows(output) == undisturbed
    verified = run_tirazh("verify", output)
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.ray
def test_a_finished_job_is_not_run_again(source: Path, tiny_model: str, ray_local: None, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_new_tokens": 2, "limit": 16}
    generate(input=source, output=tmp_path / "out", model=tiny_model, **settings)
    before = part_files(tmp_path / "out")
    manifest = generate(input=source, output=tmp_path / "out", model=tiny_model, **settings)
    assert part_files(tmp_path / "out") == before
    assert manifest["rows"] == 16


@pytest.mark.ray
def test_verify_detects_a_changed_byte(source: Path, tiny_model: str, ray_local: None, tmp_path: Path) -> None:
    settings = {**SETTINGS, "max_new_tokens": 2, "limit": 16}
    generate(input=source, output=tmp_path / "out", model=tiny_model, **settings)
    assert run_tirazh("verify", tmp_path / "out").returncode == 0
    part = next((tmp_path / "out").glob("part-00001-*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    done = run_tirazh("verify", tmp_path / "out")
    assert done.returncode == 1
    assert part.name in done.stdout + done.stderr
