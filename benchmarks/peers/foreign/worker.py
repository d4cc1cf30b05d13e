"""A process that runs an engine with the Python of its own environment, and answers turns over a pipe.

Between turns it is stopped (SIGSTOP), so that none of its threads competes with the engine whose turn it is.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
# How OpenMP's threads wait is each engine's own choice, not that of this process.
_NOT_INHERITED = ("OMP_", "GOMP_", "KMP_", "PYTHON", "VIRTUAL_ENV", "LD_PRELOAD")
_MOST_ALIVE = 3  # processes with a model and a cache in memory
_END_SECONDS = 10.0


class WorkerError(RuntimeError):
    """The engine failed, or its process ended or did not answer in time. The message has the end of its log."""


class Worker:
    """One process with one engine. `log` collects what the engine prints."""

    def __init__(self, python: Path, module: str, *, log: Path, environment: dict[str, str] | None = None) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        self.log, self._received = log, b""
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [str(python), str(FOLDER / "serve.py"), module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                env=own | (environment or {}),
                start_new_session=True,  # a group of its own, which is stopped and ended as a whole
            )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, call: str, *, timeout: float, **arguments: Any) -> dict[str, Any]:
        """Call a method of the engine. Returns its answer, with `wall_seconds` as measured here.

        Raises `WorkerError`; after a timeout or a broken pipe the process is ended.
        """
        if not self.is_alive:
            raise WorkerError(f"the process ended with code {self._process.returncode}{self._end_of_log()}")
        line = json.dumps({"call": call, **arguments}).encode() + b"\n"
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        begin = time.perf_counter()
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._read_line(timeout))
        except (OSError, ValueError) as error:
            self.end()
            raise WorkerError(f"{call}: {error}{self._end_of_log()}") from error
        answer["wall_seconds"] = time.perf_counter() - begin
        self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def end(self) -> None:
        """End the process and what it started."""
        self._signal(signal.SIGCONT)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _read_line(self, timeout: float) -> bytes:
        assert self._process.stdout is not None
        descriptor, until = self._process.stdout.fileno(), time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(until - time.monotonic()):
                    raise TimeoutError(f"no answer in {timeout:.0f} s")
                chunk = os.read(descriptor, 1 << 20)
                if not chunk:
                    raise OSError("the process ended")
                self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _end_of_log(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if line.strip()]
        return f" ({told[-1].strip()[:200]}; {self.log})" if told else ""


class Workers:
    """The processes that are alive, one for each engine. The one that was not used for longest ends first."""

    def __init__(self, most: int = _MOST_ALIVE) -> None:
        self.most, self._alive = most, dict[str, tuple[object, Worker]]()
        atexit.register(self.end_all)

    def worker(
        self,
        engine: str,
        options: object,
        python: Path,
        module: str,
        *,
        log: Path,
        environment: dict[str, str] | None = None,
    ) -> Worker:
        """Return the engine's process; starts it if there is none, and anew if its options are others."""
        known, worker = self._alive.pop(engine, (None, None))
        if worker is not None and (known != options or not worker.is_alive):
            worker.end()
            worker = None
        if worker is None:
            while len(self._alive) >= self.most:
                self._alive.pop(next(iter(self._alive)))[1].end()
            worker = Worker(python, module, log=log, environment=environment)
        self._alive[engine] = (options, worker)  # now the last of them
        return worker

    def end_all(self) -> None:
        while self._alive:
            self._alive.popitem()[1][1].end()


WORKERS = Workers()
