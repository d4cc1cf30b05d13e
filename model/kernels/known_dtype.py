"""The answer of the dtype probe on this machine, kept beside the compiled kernels.

The probe imports torch, which takes longer than the probe itself. Its answer depends on the CPU, on torch and on our
kernels, of which the file's name is a checksum. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from importlib.metadata import version
from pathlib import Path

from tirazh.model.kernels.cache import OFF_SWITCH, cache_folder

_CPUINFO = Path("/proc/cpuinfo")
_MODEL = Path(__file__).parent.parent
# What the probe measures depends on these.
_SOURCES = ("kernels/*.c", "kernels/*.h", "kernels/*.py", "layers/*.py")
_DTYPES = ("float32", "bfloat16")


def known_dtype() -> str | None:
    """The dtype that the probe has found for this CPU; None where it has not run yet."""
    with contextlib.suppress(OSError):
        text = _file().read_text(encoding="utf-8")
        return text if text in _DTYPES else None
    return None


def keep_dtype(dtype: str) -> None:
    """Keep the probe's answer for this CPU, complete or not at all. Without a directory for it nothing is kept."""
    with contextlib.suppress(OSError):
        file = _file()
        made = file.with_name(f"{file.name}.{os.getpid()}")
        made.write_text(dtype, encoding="utf-8")
        made.replace(file)


def _file() -> Path:
    digest = hashlib.sha256(version("torch").encode())
    # The first processor's lines without those that change, such as its clock rate.
    first = _CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    for line in first.splitlines():
        if not line.startswith(("cpu MHz", "bogomips")):
            digest.update(line.encode())
    for pattern in _SOURCES:
        for source in sorted(_MODEL.glob(pattern)):
            digest.update(source.read_bytes())
    # Without a compiler, or where our kernels are switched off, the products are torch's.
    settings = (shutil.which(os.environ.get("CC") or "cc"), os.environ.get(OFF_SWITCH))
    digest.update(repr(settings).encode())
    return cache_folder() / f"dtype-{digest.hexdigest()[:16]}"
