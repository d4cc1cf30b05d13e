"""`--dtype auto`: what a machine is asked, and what the answer costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tirazh.actors import dtype
from tirazh.model.layers import dtype_probe


def test_a_cpu_without_bfloat16_computes_in_float32_without_importing_torch() -> None:
    code = (
        "import sys; from tirazh.actors import dtype; dtype.may_multiply_bfloat16 = lambda: False; "
        "print(dtype._probe('cpu'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["float32", "False"], done.stderr


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_other_machines_measure(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(dtype, "may_multiply_bfloat16", lambda: device == "cpu")
    monkeypatch.setattr(dtype_probe, "resolve_dtype", lambda name: f"measured on {name}")
    assert dtype._probe(device) == f"measured on {device}"
