"""Compiles a kernel's C source for this machine, once, and loads it.

A kernel is one C file that includes only headers of this folder and of the C library, so compiling
takes some seconds and needs nothing but a C compiler (`compiler.py`). The shared library is kept in
the user's cache directory (`cache.py`) under a fingerprint of everything that decides its code.
Without a compiler, callers use torch: slower, but just as exact.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import torch

from tirazh.model.kernels import cache, compiler
from tirazh.model.kernels.cache import OFF_SWITCH as OFF_SWITCH  # part of this module, too

logger = logging.getLogger(__name__)

ELEMENT_TYPES = {torch.float32: "float", torch.bfloat16: "bf16"}  # endings of the kernels' function names
_FOLDER = Path(__file__).parent
KERNELS = tuple(sorted(path.stem for path in _FOLDER.glob("*.c")))
_BEAT_S = 0.5
_TORCH = "torch"
_lock = threading.Lock()  # what is asked of the compiler and of the cache is asked once, by the first thread
_loaded: dict[str, str] = {}  # of every kernel asked for: the fingerprint it was loaded under, or "torch"


@functools.cache
def load_kernel(name: str) -> ctypes.CDLL | None:
    """Load the compiled `name`.c of this folder; None, with one warning, if it cannot be compiled
    or loaded."""
    _loaded[name] = _TORCH
    if os.environ.get(OFF_SWITCH) == "off":
        return None
    try:
        with _lock:
            command, folder = compiler.find_compiler(), cache.cache_folder()
            fingerprint = _fingerprint(name, command)
        library = _load(folder, name, f"{name}-{fingerprint}", command)
    except OSError as error:
        reason = " ".join(str(error).split())[:300]
        logger.warning("kernel %s cannot be compiled on this machine, slower torch code runs instead: %s", name, reason)
        return None
    _loaded[name] = fingerprint
    return library


def prepare_kernels(names: Iterable[str] | None = None, beat: Callable[[], object] = lambda: None) -> None:
    """Compile and load kernels before the first step needs them; `names` of C files, None for all.

    Different kernels are compiled at the same time, on as many cores as there are. Of the processes
    of a machine one compiles, the others wait for it. Meanwhile `beat` is called at least once a
    second, in this thread. A kernel that cannot be compiled costs one warning, as in `load_kernel`.
    """
    wanted = KERNELS if names is None else tuple(dict.fromkeys(names))
    if not wanted:
        return
    with ThreadPoolExecutor(min(len(wanted), _num_cores()), "tirazh-kernels") as threads:
        running = {threads.submit(load_kernel, name) for name in wanted}
        while running:
            done, running = wait(running, timeout=_BEAT_S)
            beat()
            for each in done:
                each.result()


def kernel_versions() -> dict[str, str]:
    """Which code the kernels asked for so far run, for a record of the libraries that made a result.

    One entry, "kernels": the compiler and a fingerprint of compiler, options, CPU and sources, or
    "torch", followed by the kernels that torch replaces if those are only some. Empty before the
    first `load_kernel`.
    """
    if not _loaded:
        return {}
    missing = sorted(name for name, fingerprint in _loaded.items() if fingerprint == _TORCH)
    if len(missing) == len(_loaded):
        return {"kernels": _TORCH}
    compiled = sorted(_loaded.items() - {(name, _TORCH) for name in missing})
    short = hashlib.sha256(repr(compiled).encode()).hexdigest()[:12]
    text = f"{compiler.describe_compiler(compiler.find_compiler())}, {short}"
    return {"kernels": text + (f"; torch for {', '.join(missing)}" if missing else "")}


def _num_cores() -> int:
    """Cores that this process may use, where the system says so (Linux)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(folder: Path, name: str, stem: str, command: tuple[str, ...]) -> ctypes.CDLL:
    """Load a library from the cache, into which it is compiled if need be. Raises OSError."""
    path = _cached_or_compiled(folder, name, stem, command)
    try:
        library = _open(path)
    except OSError:  # removed in the meantime, or made for another system: once more
        path.unlink(missing_ok=True)
        library = _open(_cached_or_compiled(folder, name, stem, command))
    if not has_exact_arithmetic(library):
        raise compiler.CompilerError(f"{command[0]} compiles NaN, infinity or sums inexactly (is it a wrapper script?)")
    return library


def _open(path: Path) -> ctypes.CDLL:
    """Load a shared library and keep this thread's floating-point mode. Raises OSError.

    GCC before version 13 links start-up code into libraries made with `-ffast-math`; it makes the
    thread that loads one, and all threads it starts later, flush subnormal numbers to zero.
    """
    kept = _keeps_subnormals()
    library = ctypes.CDLL(str(path))
    if kept and not _keeps_subnormals():
        torch.set_flush_denormal(False)
    return library


def _keeps_subnormals() -> bool:
    return sys.float_info.min / 2 > 0


def _cached_or_compiled(folder: Path, name: str, stem: str, command: tuple[str, ...]) -> Path:
    found = cache.find_library(folder, stem)
    if found is not None:
        return found
    limit_s = compiler.COMPILE_LIMIT_S
    with cache.build_lock(folder, name, limit_s):
        found = cache.find_library(folder, stem)  # perhaps the process that held the lock compiled it
        if found is not None:
            return found
        source = _FOLDER / f"{name}.c"
        logger.info("compiling kernel %s for this machine", name)
        return cache.add_library(
            folder, stem, lambda made: compiler.run_compiler(compiler.compile_command(command, source, made), limit_s)
        )


def has_exact_arithmetic(library: ctypes.CDLL) -> bool:
    """Whether a library's code keeps NaN, infinity and the order of additions.

    Options hidden in a wrapper script of the compiler may have given them up.
    """
    values = (float("nan"), float("inf"), 1e8)
    check = getattr(library, "keeps_arithmetic", None)
    return check is not None and bool(check(*map(ctypes.c_float, values)))


def _fingerprint(name: str, command: tuple[str, ...]) -> str:
    """Hash of everything a library depends on: source, headers, compiler, options, and this CPU."""
    texts = [path.read_bytes() for path in (_FOLDER / f"{name}.c", *sorted(_FOLDER.glob("*.h")))]
    return hashlib.sha256(b"\0".join([*texts, compiler.identity(command).encode()])).hexdigest()[:24]
