"""No kernel reads or writes outside the tensors that it is given."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tirazh.model.kernels import build, compiler

REPOSITORY = Path(__file__).resolve().parents[3]
# Property tests that compare each kernel with torch, and the guard pages.
TESTS = (
    *("tests/model/attention/test_prefill.py", "tests/model/attention/test_decode.py"),
    *("tests/model/layers/test_add_norm.py", "tests/model/layers/test_float_linear.py"),
    *("tests/model/layers/test_bfloat16_linear.py", "tests/model/layers/test_int8_linear.py"),
    *("tests/model/attention/test_cpu.py", "tests/model/engine/test_layer_calls.py"),
    "tests/model/engine/test_sampling.py",
)

pytestmark = pytest.mark.skipif(build.load_kernel("add_norm") is None, reason="no C compiler on this machine")


def test_no_kernel_touches_memory_beside_its_tensors() -> None:
    done = run([sys.executable, "-m", "tests.model.kernels.guarded_memory"], dict(os.environ))
    assert done.returncode == 0, f"ended with {done.returncode} in: {last_lines(done.stdout)}"
    assert done.stdout.endswith("all cases\n")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["native", "x86-64-v3", "x86-64"])
def test_the_kernels_tests_pass_with_sanitizers(architecture: str, tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer, for the widest and for narrower vectors."""
    libraries = sanitizer_libraries()
    if not libraries:
        pytest.skip("this compiler has no shared sanitizer libraries")
    if architecture != "native" and platform.machine() != "x86_64":
        pytest.skip("an x86 architecture")
    environment = {
        **os.environ,
        "LD_PRELOAD": ":".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python frees little when it ends
        "XDG_CACHE_HOME": str(tmp_path),
        "CI": "1",  # the same examples each time
    }
    done = run([sys.executable, "-m", "tests.model.kernels.sanitized", architecture, *TESTS], environment)
    assert done.returncode == 0, last_lines(done.stdout, 60)


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800,
    )


@functools.cache
def sanitizer_libraries() -> list[str]:
    """Paths of the shared libraries of GCC's sanitizers; empty where they are not installed."""
    found = [
        compiler.run_compiler([*compiler.find_compiler(), f"-print-file-name={name}"], 60).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return found if all(map(os.path.isabs, found)) else []


def last_lines(text: str, number: int = 3) -> str:
    return "\n".join(text.splitlines()[-number:])
