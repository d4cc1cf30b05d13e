"""What the CPU of this machine has instructions for, from `/proc/cpuinfo`. Standard library only."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# x86 calls its lists of features "flags", ARM "Features". `avx_ne_convert` only converts, but that may be enough.
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "svebf16"}


def may_multiply_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the CPU may have instructions for bfloat16; True also where the system does not say. Without them every
    product is computed in float32 and converted, which is several times slower than float32."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    listed = [
        line.partition(":")[2].split() for line in lines if line.partition(":")[0].strip() in ("flags", "Features")
    ]
    return not listed or any(_BFLOAT16.intersection(features) for features in listed)
