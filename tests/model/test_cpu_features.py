"""Whether a CPU can multiply bfloat16 numbers is read off the list of its features."""

from __future__ import annotations

from pathlib import Path

import pytest

from tirazh.model.cpu_features import may_multiply_bfloat16


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("model name\t: x\nflags\t\t: fpu avx2 fma avx512f\n\nflags\t\t: fpu avx2 fma avx512f\n", False),
        ("flags\t\t: fpu avx2 avx512_bf16\n", True),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd sve bf16 i8mm\n", True),
        ("Features\t: fp asimd\n", False),
        ("CPU part\t: 0xd0c\n", True),
        ("", True),
    ],
)
def test_a_cpu_has_bfloat16_if_it_lists_it_or_lists_nothing(tmp_path: Path, cpuinfo: str, expected: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    assert may_multiply_bfloat16(path) is expected


def test_without_the_file_nothing_is_known(tmp_path: Path) -> None:
    assert may_multiply_bfloat16(tmp_path / "missing")
