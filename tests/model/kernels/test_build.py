"""Kernels are compiled once for all processes of a machine, under a name that states all that their code depends on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tirazh.model.kernels import build, cache, compiler

REPOSITORY = Path(__file__).resolve().parents[3]
LOAD = "import sys; from tirazh.model.kernels import build; sys.exit(build.load_kernel('add_norm') is None)"

CC = compiler.find_compiler()[0] if build.load_kernel("add_norm") else ""
pytestmark = pytest.mark.skipif(not CC, reason="no C compiler on this machine")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "tirazh" / "kernels"
    forget()


def forget() -> None:
    """Make this process ask the compiler and load kernels anew."""
    for function in (build.load_kernel, compiler._without_refused, compiler._identity, compiler.describe_compiler):
        function.cache_clear()


def load() -> bool:
    build.load_kernel.cache_clear()
    return build.load_kernel("add_norm") is not None


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def wrapper(tmp_path: Path, script: str) -> Path:
    """A compiler of its own: a shell script in which `"$@"` are the options it is called with."""
    path = tmp_path / "wrapped-cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


COMPILES = 'case "$*" in *add_norm.c*) {} ;; esac'


def test_a_kernel_is_compiled_once(folder: Path) -> None:
    assert load()
    (made,) = libraries(folder)
    written = made.stat().st_mtime_ns
    assert load()
    assert [path.stat().st_mtime_ns for path in libraries(folder)] == [written]
    assert not list(folder.glob("building-*"))


@pytest.mark.parametrize("kept_bytes", [pytest.param(0, marks=pytest.mark.slow), 8000], ids=["empty", "torn"])
def test_a_damaged_library_is_compiled_again(folder: Path, kept_bytes: int, caplog: pytest.LogCaptureFixture) -> None:
    """In a process of its own: loading a library that was cut off would end it with SIGBUS."""
    assert load()
    (made,) = libraries(folder)
    content = made.read_bytes()
    made.unlink()  # this process has loaded the file
    made.write_bytes(content[:kept_bytes])
    subprocess.run([sys.executable, "-c", LOAD], check=True, cwd=REPOSITORY)
    (repaired,) = libraries(folder)
    assert repaired.stat().st_size == len(content)


def test_a_library_that_does_not_load_is_compiled_once_more(folder: Path) -> None:
    assert load()
    (made,) = libraries(folder)
    foreign = made.with_suffix(".tmp")
    foreign.write_bytes(b"\x7fELF of another system")
    made.unlink()
    foreign.rename(folder / f"{made.name.split('.')[0]}.{cache._checksum(foreign)}.so")
    assert load()
    assert len(libraries(folder)) == 1


def test_options_behind_the_compilers_name_give_another_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (CC, f"{CC} -fno-tree-vectorize"):
        monkeypatch.setenv("CC", command)
        assert load()
    assert len(libraries(folder)) == 2


def test_fast_math_of_cc_is_not_passed_on_and_one_warning_logged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for option in ("-ffast-math", "-Ofast"):
        monkeypatch.setenv("CC", f"{CC} {option}")
        assert load()
        assert load()
    assert [record.message.split()[5] for record in caplog.records] == ["-ffast-math", "-Ofast"]
    monkeypatch.setenv("CC", CC)
    assert load()
    assert len(libraries(folder)) == 1  # no option was left, so it is the same code


@pytest.mark.parametrize("option", ["-ffast-math", "-ffinite-math-only"])
def test_a_wrapper_script_cannot_give_up_exact_arithmetic(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, option: str
) -> None:
    """Options before ours are taken back, those behind ours are noticed when the library is loaded."""
    monkeypatch.setenv("CC", str(wrapper(tmp_path, f'exec {CC} {option} "$@"')))
    assert load()
    assert not caplog.records
    monkeypatch.setenv("CC", str(wrapper(tmp_path, f'exec {CC} "$@" {option}')))
    forget()
    assert not load()
    (record,) = caplog.records
    assert "NaN" in record.message


@pytest.mark.parametrize("option", ["-ffast-math", "-funsafe-math-optimizations"])
def test_loading_a_kernel_does_not_make_the_process_flush_subnormal_numbers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """GCC before 13 links code into such libraries that changes the mode of the thread that loads them."""
    for script in (f'exec {CC} {option} "$@"', f'exec {CC} "$@" {option}'):
        monkeypatch.setenv("CC", str(wrapper(tmp_path, script)))
        forget()
        load()
        assert sys.float_info.min / 2 > 0
    assert libraries(folder)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (
            "Features\t: fp asimd sve2\nCPU part\t: 0xd4f\nBogoMIPS\t: 2100\n",
            "Features\t: fp asimd\nCPU part\t: 0xd0c\n",
        ),
        (
            "model name\t: A\nflags\t: avx2 avx512f\ncpu MHz\t: 2000\n",
            "model name\t: A\nflags\t: avx2\ncpu MHz\t: 2000\n",
        ),
    ],
    ids=["aarch64", "x86"],
)
def test_the_cpus_identity_has_its_instructions_and_nothing_that_changes(
    monkeypatch: pytest.MonkeyPatch, text: str, other: str
) -> None:
    def identity_of(cpuinfo: str) -> str:
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
        return compiler.cpu_identity.__wrapped__()

    assert identity_of(text) != identity_of(other)
    assert identity_of(text + text) == identity_of(text)
    assert identity_of(text.replace("2000", "3000").replace("2100", "1900")) == identity_of(text)


def test_processes_that_start_together_compile_once(folder: Path, tmp_path: Path) -> None:
    count = COMPILES.format(f"echo started >> {tmp_path}/log; sleep 1")
    cc = wrapper(tmp_path, f'{count}\nexec {CC} "$@"')
    environment = {**os.environ, "CC": str(cc)}
    started = [subprocess.Popen([sys.executable, "-c", LOAD], cwd=REPOSITORY, env=environment) for _ in range(3)]
    assert [process.wait(120) for process in started] == [0] * 3
    assert (tmp_path / "log").read_text().count("started") == 1


def test_the_lock_of_a_killed_process_is_released(folder: Path) -> None:
    folder.mkdir(parents=True)
    hold = (
        "import sys, time, pathlib; from tirazh.model.kernels import cache\n"
        "with cache.build_lock(pathlib.Path(sys.argv[1]), 'add_norm', 60): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", hold, str(folder)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    begin = time.monotonic()
    with cache.build_lock(folder, "add_norm", 300):
        assert time.monotonic() - begin < 200


def test_where_there_are_no_locks_each_process_compiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(cache.fcntl, "flock", refuse)
    assert load()


def test_a_compiler_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    cc = wrapper(tmp_path, f"sleep 300 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(compiler.CompilerError, match="took longer than 1 s"):
        compiler.run_compiler([str(cc)], 1.0)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 60
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        return not Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].startswith(" Z")
    except OSError:
        return False


def test_kernels_are_prepared_at_the_same_time_while_the_caller_shows_life(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", str(wrapper(tmp_path, f'case "$*" in *norm.c*) sleep 2;; esac\nexec {CC} "$@"')))
    beats: list[float] = []
    threads: set[threading.Thread] = set()

    def beat() -> None:
        beats.append(time.monotonic())
        threads.add(threading.current_thread())

    begin = time.monotonic()
    build.prepare_kernels(["add_norm", "sampling", "add_norm"], beat)
    assert threads == {threading.current_thread()}
    assert len(beats) > 2
    assert beats[0] - begin < 60
    assert len(libraries(folder)) == 2
    build.prepare_kernels(["add_norm", "sampling"], lambda: None)


def test_the_versions_name_the_compiler_or_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "_loaded", {})
    assert build.kernel_versions() == {}
    assert load()
    (compiled,) = build.kernel_versions().values()
    monkeypatch.setenv("CC", f"{CC} -fno-tree-vectorize")
    assert load()
    assert build.kernel_versions() != {"kernels": compiled}
    monkeypatch.setenv("TIRAZH_KERNELS", "off")
    assert not load()
    assert build.kernel_versions() == {"kernels": "torch"}
