"""`--dtype auto`: what a machine is asked, and what the answer costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tirazh.actors import dtype
from tirazh.model.kernels import known_dtype
from tirazh.model.layers import dtype_probe


def test_a_cpu_without_bfloat16_computes_in_float32_without_importing_torch() -> None:
    code = (
        "import sys; from tirazh.actors import dtype; dtype.may_multiply_bfloat16 = lambda: False; "
        "print(dtype._probe('cpu'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["float32", "False"], done.stderr


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_other_machines_measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(dtype, "may_multiply_bfloat16", lambda: device == "cpu")
    monkeypatch.setattr(dtype_probe, "resolve_dtype", lambda name: f"measured on {name}")
    assert dtype._probe(device) == f"measured on {device}"


def test_a_cpu_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(dtype, "may_multiply_bfloat16", lambda: True)
    answers = iter(["bfloat16", "float32", "float32"])
    monkeypatch.setattr(dtype_probe, "resolve_dtype", lambda _: next(answers))
    assert [dtype._probe("cpu") for _ in range(3)] == ["bfloat16"] * 3
    assert dtype._probe("cuda") == "float32"  # a GPU is asked every time: it answers without a measurement


@pytest.mark.parametrize("damaged", ["", "bfloat1", "int3"])
def test_a_damaged_answer_is_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damaged: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(dtype, "may_multiply_bfloat16", lambda: True)
    monkeypatch.setattr(dtype_probe, "resolve_dtype", lambda _: "bfloat16")
    dtype._probe("cpu")
    (file,) = tmp_path.rglob("dtype-*")
    file.write_text(damaged)
    assert dtype._probe("cpu") == "bfloat16"
    assert file.read_text() == "bfloat16"


def test_a_machine_without_a_directory_for_the_answer_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise OSError("read-only")

    monkeypatch.setattr(known_dtype, "cache_folder", fail)
    monkeypatch.setattr(dtype, "may_multiply_bfloat16", lambda: True)
    monkeypatch.setattr(dtype_probe, "resolve_dtype", lambda _: "float32")
    assert dtype._probe("cpu") == "float32"
