"""Runs several writers of one output in a fixed order of their storage operations.

Each writer is a thread, and only one of them runs at a time. Before every operation of its storage it stops and
waits for the schedule. Time is a number: it passes when the running writer sleeps, and stands still otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from tirazh.errors import JobError
from tirazh.pipeline.output import changed_input, ledger, promotion, state
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.leases.lease import Lease
from tirazh.pipeline.output.leases.process_mark import ProcessMark
from tirazh.pipeline.storage.clock import CLOCK
from tirazh.pipeline.storage.filesystem import Storage

CHANGES = ("write", "create", "remove", "move")
LOOKS = ("names", "directories", "read")


class Crash(BaseException):
    """The writer's process has been killed: none of its further operations happen."""


class Writer(threading.Thread):
    """One run, which stops before each operation of its storage.

    `pending` is the operation that it is about to make: the name of the method and the URI.
    """

    def __init__(self, world: World, run: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.world = world
        self.pending: tuple[str, str] | None = None
        self.operations: list[tuple[str, str]] = []
        self.result: BaseException | Any = None
        self.is_dead = False
        self.lease: Lease | None = None
        self.is_settling = False
        self._run = run
        self._may_go = threading.Semaphore(0)
        self._has_stopped = threading.Semaphore(0)
        self.start()
        self._has_stopped.acquire()

    @property
    def is_over(self) -> bool:
        return self.pending is None

    @property
    def is_writing(self) -> bool:
        """Whether the writer is about to change the storage: its check of the lease has passed."""
        return self.pending is not None and self.pending[0] in CHANGES

    def step(self) -> None:
        """Make the pending operation, and stop before the next one."""
        self._may_go.release()
        self._has_stopped.acquire()
        self.world.check()

    def advance(self, until: Callable[[], bool] = lambda: False) -> None:
        """Make operations until `until()` or the end of the run."""
        while not self.is_over and not until():
            self.step()

    def kill(self) -> None:
        """End the process before its pending operation."""
        self.is_dead = True
        self.advance()

    def before(self, name: str, uri: str) -> None:
        """Called in the writer's own thread by its storage."""
        if self.is_dead:
            raise Crash
        self.pending = (name, uri)
        self.operations.append(self.pending)
        self._has_stopped.release()
        self._may_go.acquire()
        if self.is_dead:
            raise Crash

    def run(self) -> None:
        self.world.writer_of[threading.get_ident()] = self
        try:
            self.result = self._run()
        except BaseException as error:  # noqa: BLE001 - kept for the test
            self.result = error
        self.pending = None
        del self.world.writer_of[threading.get_ident()]  # another thread may get the same number
        self._has_stopped.release()


class World:
    """The storage, the clock and the writers of one schedule.

    `check` is called after every operation: what must be true for readers at every moment.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self.now = 1000.0
        self.writers: list[Writer] = []
        self.writer_of: dict[int, Writer] = {}
        self.check = check

    def start(self, run: Callable[[], Any]) -> Writer:
        """Start a writer; it stops before its first operation."""
        writer = Writer(self, run)
        self.writers.append(writer)
        return writer

    def sleep(self, seconds: float) -> None:
        """Let time pass for the running writer, whose lease is renewed meanwhile; all others are stopped."""
        running = self.writer_of.get(threading.get_ident())
        if running is not None and running.is_settling and seconds > 0:
            self.settle()
        self.now += seconds
        if running is not None and running.lease is not None and seconds > 0:
            try:
                running.lease.renew()
            except JobError:
                return

    def settle(self) -> None:
        """All writes that are on their way end now: this is what `Lease.settle` waits for."""
        for writer in self.writers:
            if writer.is_writing and writer is not self.writer_of.get(threading.get_ident()):
                writer.step()


class InlineExecutor:
    """A pool of threads that is none: a writer makes one operation after the other."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def map(self, action: Callable[..., Any], *items: Any) -> Iterator[Any]:
        return iter([action(*each) for each in zip(*items, strict=False)])

    def submit(self, action: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(action(*arguments))
        return future


@contextmanager
def scheduled(world: World, *, are_writes_bounded: bool = True) -> Iterator[World]:
    """Inside the block, the writers of `world` obey its schedule.

    `are_writes_bounded`: a write that passed its check ends before a successor has settled. This is the one
    assumption of the protocol about time.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in (*CHANGES, *LOOKS):
            patch.setattr(Storage, name, _stopping(world, name, getattr(Storage, name)))
        for clock in ("monotonic", "since_boot"):
            patch.setattr(CLOCK, clock, lambda: world.now)
        patch.setattr(CLOCK, "sleep", world.sleep)
        for module in (changed_input, ledger, promotion, state):
            patch.setattr(module, "ThreadPoolExecutor", InlineExecutor)
        patch.setattr(lease_module, "RACE_WINDOW_S", 0.0)
        patch.setattr(lease_module, "_POLL_EVERY_S", 61.0)
        patch.setattr(ProcessMark, "is_here", False)  # the writers are on different machines
        patch.setattr(Lease, "_keep", lambda self: None)
        patch.setattr(Lease, "__init__", _noting(world, Lease.__init__))
        if are_writes_bounded:
            patch.setattr(Lease, "settle", _settling(world, Lease.settle))
        try:
            yield world
        finally:
            for writer in world.writers:
                if not writer.is_over:
                    world.check = lambda: None
                    writer.kill()


def _stopping(world: World, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def stopped(self: Storage, uri: str, *arguments: Any, **options: Any) -> Any:
        writer = world.writer_of.get(threading.get_ident())
        if writer is not None:
            writer.before(name, uri)
        return method(self, uri, *arguments, **options)

    return stopped


def _noting(world: World, method: Callable[..., None]) -> Callable[..., None]:
    def noted(self: Lease, *arguments: Any, **options: Any) -> None:
        method(self, *arguments, **options)
        writer = world.writer_of.get(threading.get_ident())
        if writer is not None:
            writer.lease = self

    return noted


def _settling(world: World, method: Callable[[Lease], None]) -> Callable[[Lease], None]:
    def settle(self: Lease) -> None:
        writer = world.writer_of[threading.get_ident()]
        writer.is_settling = True
        method(self)
        writer.is_settling = False

    return settle
