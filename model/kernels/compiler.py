"""The C compiler: which one, with which options, and how it is run.

`CC` chooses the compiler and may add options to it (`CC="gcc --sysroot=/opt/root"`). `CFLAGS` is not
read: it is meant for other programs. Options that give up NaN, infinity or the order of additions
are not passed on, because the engine finds a broken model by its NaN logits, and a row's bits must
not depend on its neighbours.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

# Enough for a compiler on a network share and a machine under load: it usually takes 1 to 3 s a kernel. A question,
# such as for its version, may take as long where starting it is what is slow.
COMPILE_LIMIT_S = 300.0
OPTIONS = ("-O3", "-march=native", "-fPIC", "-std=gnu11", "-shared")
# What a wrapper script may have put before our options is taken back.
LAST_OPTIONS = ("-fno-fast-math", "-fno-finite-math-only", "-fno-unsafe-math-optimizations", "-fsigned-zeros")
_REFUSED = {
    *("-Ofast", "-ffast-math", "-ffinite-math-only", "-funsafe-math-optimizations", "-fno-signed-zeros"),
    *("-fassociative-math", "-freciprocal-math", "-fapprox-func"),
}
_REFUSED_BEGINNINGS = ("-ffp-model=fast", "-ffp-model=aggressive")
# Environment variables by which compilers find headers, libraries and their own programs.
_READ_BY_COMPILERS = (
    *("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "SDKROOT"),
    "MACOSX_DEPLOYMENT_TARGET",
)


class CompilerError(OSError):
    """The compiler refused a kernel, or took too long."""


def find_compiler() -> tuple[str, ...]:
    """The compiler's command: the words of `CC`, else `cc`, `gcc` or `clang`.

    Raises FileNotFoundError if there is none.
    """
    asked = tuple(shlex.split(os.environ.get("CC", "")))
    if asked:
        return _without_refused(asked)
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if found is None:
        raise FileNotFoundError("no C compiler is installed (cc, gcc or clang)")
    return (found,)


@functools.cache
def _without_refused(command: tuple[str, ...]) -> tuple[str, ...]:
    refused = [word for word in command[1:] if word in _REFUSED or word.startswith(_REFUSED_BEGINNINGS)]
    if refused:
        logger.warning("the kernels are compiled without %s of CC, which would hide NaN and infinity", *refused[:1])
    return tuple(word for word in command if word not in refused)


def compile_command(compiler: Sequence[str], source: Path, target: Path) -> list[str]:
    """The command that compiles `source` to the shared library `target`."""
    return [*compiler, *OPTIONS, *openmp_options(), str(source), "-o", str(target), *openmp_libraries(), "-lm",
            *LAST_OPTIONS]  # fmt: skip


def openmp_options() -> tuple[str, ...]:
    """The options that turn OpenMP on; Apple's clang takes it only as an option of its preprocessor."""
    return ("-Xpreprocessor", "-fopenmp") if sys.platform == "darwin" else ("-fopenmp",)


@functools.cache
def openmp_libraries() -> tuple[str, ...]:
    """Torch's own OpenMP library, so that the kernels and torch share one thread pool."""
    pattern = "libomp*.dylib" if sys.platform == "darwin" else "libgomp*.so*"
    return tuple(map(str, sorted((Path(torch.__file__).parent / "lib").glob(pattern))[:1]))


@functools.cache
def describe_compiler(compiler: tuple[str, ...]) -> str:
    """The first line of `--version`."""
    return next(iter(_answer((*compiler, "--version")).splitlines()), "")


def identity(compiler: tuple[str, ...]) -> str:
    """Everything about the compiler, the C library and the CPU that decides what it makes of a source."""
    environment = [f"{name}={os.environ.get(name, '')}" for name in _READ_BY_COMPILERS]
    return "\n".join([*environment, _identity(compiler, OPTIONS)])


@functools.cache
def _identity(compiler: tuple[str, ...], options: tuple[str, ...]) -> str:
    path = shutil.which(compiler[0])
    # The options that the compiler itself passes on: `-march=native` is spelled out there, CPU by CPU.
    spelled = _answer((*compiler, *options, "-###", "-S", "-x", "c", os.devnull, "-o", os.devnull))
    parts = [
        *(repr(compiler), path or "", os.path.realpath(path) if path else ""),
        *(_answer((*compiler, "--version")), spelled),
        repr((options, openmp_options(), openmp_libraries(), LAST_OPTIONS)),
        *(str(Path(library).stat().st_size) for library in openmp_libraries()),
        *(" ".join(platform.libc_ver()), platform.machine(), cpu_identity()),
    ]
    return "\n".join(parts)


def _answer(command: tuple[str, ...]) -> str:
    """What the compiler prints. Run in `/`, because clang prints its working directory."""
    return run_compiler(command, COMPILE_LIMIT_S, folder="/")


def run_compiler(command: Sequence[str], limit_s: float, folder: str | None = None) -> str:
    """Run the compiler and return what it printed.

    It runs in a process group of its own, which ends as a whole: a driver like gcc starts other
    programs, and those do the work. Raises CompilerError.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        cwd=folder,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise CompilerError(f"{command[0]} took longer than {limit_s:.0f} s") from None
    finally:
        if process.returncode is None:
            _end_group(process)
    if process.returncode:
        raise CompilerError(" ".join(printed.split()) or f"{command[0]} ended with {process.returncode}")
    return printed


def _end_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.communicate()


@functools.cache
def cpu_identity() -> str:
    """The CPU's maker, model and instructions, as the operating system states them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return _without_proc()
    # x86, aarch64, POWER and RISC-V in turn; not the lines that change from core to core or with time.
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ", "cpu\t", "isa", "uarch")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted) and not line.startswith("CPU MHz")}))


def _without_proc() -> str:
    """The same on macOS, from `sysctl`."""
    texts = [platform.processor(), torch.backends.cpu.get_cpu_capability()]
    with contextlib.suppress(OSError):
        texts.append(run_compiler(("sysctl", "machdep.cpu", "hw.optional"), COMPILE_LIMIT_S))
    return "\n".join(texts)
