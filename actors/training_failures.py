"""What Ray Train says about workers that failed: one line of JSON each time, in a file that the driver follows.

Ray Train tells it in its controller, a process of its own. The file is on the disk that all workers can reach.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError, TaskCancelledError
from ray.train import UserCallback

from tirazh.errors import TirazhError
from tirazh.model.training.config import Fence

_LONGEST_REASON = 300
# What gloo and NCCL say when the worker at the other end is gone.
_LOST = re.compile(r"connection (closed|reset|refused)|broken pipe|remote process exited|peer|timed out", re.IGNORECASE)
_HOST = re.compile(r"hostname='?([^',\s]+)")
_ADDRESS = re.compile(r"\bip: (\S+)|node_ip='?([^',\s]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFailure:
    """Why a group of workers ended: `kind` is died, lost (the connection to another worker) or failed.

    `rank` is the worker that died, or that reported the failure; `host` is empty where Ray does not name it.
    """

    rank: int
    host: str
    kind: str
    reason: str

    def describe(self) -> str:
        """Return a clause about the failure."""
        worker = f"training worker {self.rank}" + (f" on {self.host}" if self.host else "")
        if self.kind == "died":
            return f"{worker} died ({self.reason})"
        if self.kind == "lost":
            return f"{worker} lost its connection to another worker, which died or cannot be reached"
        return f"{worker} failed: {self.reason}"


class FailureLog(UserCallback):  # type: ignore[misc]  # Ray has no types
    """Adds the failures of a group to a file, while the run holds its output."""

    def __init__(self, path: str, fence: Fence | None) -> None:
        self._path = Path(path)
        self._fence = fence

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Ray Train calls this once for each group that ends with errors."""
        failure = explain(worker_exceptions)
        # A failure that cannot be recorded must not end the training.
        with suppress(TirazhError, OSError):
            if self._fence is None:
                self._add(failure)
            else:
                self._fence.guard(lambda: self._add(failure))

    def _add(self, failure: WorkerFailure) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(failure), ensure_ascii=False) + "\n")


def read_failures(path: Path) -> list[WorkerFailure]:
    """Return the failures of a training, the oldest first; skips a line that is not complete."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError, TypeError):
            found.append(WorkerFailure(**json.loads(line)))
    return found


def explain(errors: Mapping[int, BaseException]) -> WorkerFailure:
    """Choose the worker that failed first: one that died, then one with an error of its own.

    The others only lost their connection to it, or were cancelled.
    """
    found = [_failure(rank, error) for rank, error in sorted(errors.items())]
    order = {"died": 0, "failed": 1, "lost": 2}
    return min(found, key=lambda failure: order[failure.kind])


def cause_of(failure: BaseException) -> BaseException:
    """Return the error inside the wrappers of Ray and of Ray Train 2.60."""
    for name in ("cause", "_base_exc", "health_check_failure"):
        inner = getattr(failure, name, None)
        if isinstance(inner, BaseException) and inner is not failure:
            return cause_of(inner)
    return failure


def _failure(rank: int, error: BaseException) -> WorkerFailure:
    cause = cause_of(error)
    text = " ".join(str(cause).split())
    host = _host(f"{error} {cause}")
    if isinstance(cause, RayActorError):
        return WorkerFailure(rank=rank, host=host, kind="died", reason=_death(text))
    is_lost = isinstance(cause, TaskCancelledError) or (not isinstance(cause, TirazhError) and _LOST.search(text))
    reason = text if isinstance(cause, TirazhError) else f"{type(cause).__name__}: {text}"
    return WorkerFailure(
        rank=rank, host=host, kind="lost" if is_lost else "failed", reason=reason[:_LONGEST_REASON].rstrip()
    )


def _host(text: str) -> str:
    name, address = _HOST.search(text), _ADDRESS.search(text)
    if name is not None:
        return name[1]
    return next(filter(None, address.groups()), "") if address is not None else ""


def _death(text: str) -> str:
    """Say in a few words how a worker's process ended, as far as Ray knows."""
    low = text.lower()
    if "memory pressure" in low or "outofmemory" in low or "memory usage threshold" in low:
        return "Ray ended it because the machine ran out of memory"
    if "node was terminated" in low or "node died" in low or "node has died" in low or "node failure" in low:
        return "its machine can no longer be reached"
    if "unavailable" in low and "worker exit" not in low:
        return "it can no longer be reached"
    return "its process ended: killed, out of memory, or crashed"
