"""Compiles a kernel's C source for this machine, once, and loads it.

A kernel is one C file that includes only headers of this folder and of the C library, so compiling
takes some seconds and needs nothing but a C compiler. The shared library is cached in the user's
cache directory under a fingerprint of source, compiler, options and CPU. Without a compiler,
callers use torch: slower, but just as exact.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-std=gnu11", "-shared")
_TIMEOUT_S = 120.0
ELEMENT_TYPES = {torch.float32: "float", torch.bfloat16: "bf16"}  # endings of the kernels' function names
OFF_SWITCH = "TIRAZH_KERNELS"  # "off" in the environment: run without compiled kernels


@functools.cache
def load_kernel(name: str) -> ctypes.CDLL | None:
    """Load the compiled `name`.c of this folder; None, with one warning, if it cannot be compiled
    or loaded."""
    if os.environ.get(OFF_SWITCH) == "off":
        return None
    source = Path(__file__).with_name(f"{name}.c")
    try:
        return ctypes.CDLL(str(_compiled(source)))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        reason = " ".join(str(output).split())[:300]
        logger.warning("kernel %s cannot be compiled on this machine, slower torch code runs instead: %s", name, reason)
        return None


def _compiled(source: Path) -> Path:
    """Path of the shared library, which is compiled if it is not cached yet.

    Raises OSError or SubprocessError.
    """
    compiler = _compiler()
    folder = _cache_folder()
    target = folder / f"{source.stem}-{_fingerprint(source, compiler)}.so"
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as workplace:
        made = Path(workplace) / target.name
        command = [*compiler, *_FLAGS, str(source), "-o", str(made), *_openmp(), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
        made.replace(target)  # atomic, so that processes which compile it at the same time do not disturb each other
    return target


def _compiler() -> list[str]:
    asked = shlex.split(os.environ.get("CC", ""))
    if asked:
        return asked
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if found is None:
        raise FileNotFoundError("no C compiler is installed (cc, gcc or clang)")
    return [found]


def _openmp() -> list[str]:
    """Torch's own OpenMP library, so that the kernels and torch share one thread pool."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return [str(found[0])] if found else []


def _fingerprint(source: Path, compiler: list[str]) -> str:
    """Hash of everything the library depends on: source, compiler, options and this CPU's
    instructions."""
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True, timeout=_TIMEOUT_S).stdout
    texts = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    parts = [*texts, version, repr((_FLAGS, _openmp())).encode(), _cpu().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return torch.backends.cpu.get_cpu_capability()
    return "\n".join(sorted({line for line in lines if line.startswith(("model", "vendor_id", "flags"))}))


def _cache_folder() -> Path:
    """A directory that only this user can write to, because its contents are executed."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "tirazh" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = folder.stat()
        is_ours = info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_ours and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _process_folder()


@functools.cache
def _process_folder() -> Path:
    """A temporary directory of this process, for users without a trustworthy cache directory."""
    return Path(tempfile.mkdtemp(prefix="tirazh-kernels-"))
