"""All changes that a run makes to an output: each of them checks the lease first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from tirazh.pipeline.output.leases.lease import LeaseToken
from tirazh.pipeline.output.names import SUCCESS, OutputFiles
from tirazh.pipeline.storage.filesystem import keep_trying

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GuardedOutput:
    """An output, and the lease under which a run changes it. Tasks on other machines receive it.

    Every change is retried during an outage, and the lease is checked before each attempt
    (`LeaseToken.guard`): JobError is raised once another run holds it. `token` is None for an output that
    only this process can see.
    """

    files: OutputFiles
    token: LeaseToken | None

    def at(self, files: OutputFiles) -> GuardedOutput:
        """Another output under the same lease: the staged one."""
        return replace(self, files=files)

    def write(self, uri: str, data: bytes) -> None:
        """Write a file atomically; it replaces an existing one."""
        self._guard(lambda: self.files.storage.write(uri, data))

    def create(self, uri: str, data: bytes, *, undo: Callable[[], None] | None = None) -> bool:
        """Write a file atomically unless it exists; return whether it was written.

        After a lost response the repeated attempt finds the file and returns False.
        """
        return self._guard(lambda: self.files.storage.create(uri, data), undo)

    def remove(self, uri: str, *, recursive: bool = False) -> None:
        """Delete a file, or with `recursive` a directory. Does nothing if it does not exist."""
        self._guard(lambda: self.files.storage.remove(uri, recursive=recursive))

    def move(self, source: str, target: str) -> None:
        """Move a file; it replaces an existing one. It may be repeated after an interruption."""
        self._guard(lambda: self.files.storage.move(source, target))

    def reopen(self) -> None:
        """Remove `_SUCCESS`; called before anything that readers see changes."""
        self.remove(self.files.part(SUCCESS))

    def mark_complete(self, plan_id: str) -> None:
        """Write `_SUCCESS`, which names the plan; the last write of a run."""
        self.write(self.files.part(SUCCESS), plan_id.encode())

    def _guard(self, action: Callable[[], T], undo: Callable[[], None] | None = None) -> T:
        return keep_trying(action) if self.token is None else self.token.guard(action, undo=undo)
