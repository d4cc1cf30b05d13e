"""A training on a disk that is too small, or becomes full: one sentence with need and room, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.command import assert_one_sentence, run_tirazh, wait_until
from tests.system.tiny_model import write_tiny_model
from tirazh.model.training.log import read_log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]
TIMEOUT_S = 900.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def command(folder: Path, output: Path, model: str, **more: object) -> list[object]:
    texts = [f"Новость номер {row}: на складе {row * 7 % 13} ящиков" for row in range(100)]
    pq.write_table(pa.table({"text": texts}), folder / "in.parquet")
    flags: dict[str, object] = {"input": folder / "in.parquet", "output": output, "model": model, "device": "cpu"}
    flags |= {"dtype": "float32", "seq-length": 64, "batch-size": 4, "threads": 1, "max-steps": 60, "save-steps": 5}
    named = flags | {name.replace("_", "-"): value for name, value in more.items()}
    return ["finetune", *(text for name, value in named.items() for text in (f"--{name}", value))]


def test_a_training_that_does_not_fit_on_the_disk_is_refused_before_ray_starts(tmp_path: Path, disk: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    done = run_tirazh(*command(tmp_path, disk / "out", model, keep_checkpoints=15), timeout_s=TIMEOUT_S)
    assert_one_sentence(done, exit_code=2, says=f"--output {disk}/out: the training needs ")
    assert "(16 checkpoints of " in done.stderr
    assert "and 40.0 MiB is free; make room, lower --keep-checkpoints (15 now)" in done.stderr
    assert not (disk / "out").exists()


def test_a_disk_that_becomes_full_ends_the_training_at_once_and_with_room_it_is_resumed(
    tmp_path: Path, disk: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    model = write_tiny_model(tmp_path / "model")
    arguments = command(tmp_path, disk / "out", model)
    process = start(*arguments)

    def steps() -> int:
        logs = list((disk / "out").glob("_tirazh/trainings/*/losses.jsonl"))
        return max((entry["step"] for log in logs for entry in read_log(log)), default=0)

    wait_until(lambda: steps() >= 6, timeout_s=TIMEOUT_S, what="step 6")
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * (1 << 16))
        except OSError:
            pass
    out, err = process.communicate(timeout=TIMEOUT_S)
    output = out + err
    assert process.returncode == 1, output
    assert "Traceback" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"tirazh: the disk of {disk}/out/_tirazh/trainings/"), output
    assert " is full: a checkpoint takes " in last
    assert "is free now; make room, then run the same command to resume" in last
    assert "died" not in output

    filler.unlink()
    again = run_tirazh(*arguments, timeout_s=TIMEOUT_S)
    assert again.returncode == 0, again.stderr
    manifest = json.loads((disk / "out/_tirazh/manifest.json").read_text())
    assert manifest["total_steps"] == 60
