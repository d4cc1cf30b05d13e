"""Sends messages in background threads, within a deadline.

A receiver that does not answer must not hold up the end of a run, and its failure is a warning: it never
changes how the run ended. No message shows an address.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from tirazh.errors import RequestError
from tirazh.pipeline.notify.bodies import HttpRequest, make_request, to_json
from tirazh.pipeline.notify.message import RunMessage
from tirazh.pipeline.notify.settings import Notification

# All receivers together; the end of a run waits no longer.
TIMEOUT_S = 4.5
_REQUEST_TIMEOUT_S = 4.0
_PAUSE_S = 0.3
_LATE = f"no answer within {TIMEOUT_S:g} s"


@dataclass(slots=True, eq=False)
class _Task:
    """One delivery. `problem` is why it failed, None while it runs."""

    name: str
    thread: threading.Thread
    problem: str | None = None
    process: subprocess.Popen[bytes] | None = None


class Delivery:
    """Deliveries in progress. `wait` ends them."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._tasks: list[_Task] = []

    def start(self, name: str, act: Callable[[_Task], None]) -> None:
        """Run `act` in a thread; the text of what it raises becomes the problem. `name` is shown with it."""

        def run() -> None:
            try:
                act(task)
            except (RequestError, _Refused) as error:
                task.problem = str(error)
            except Exception as error:  # noqa: BLE001 - the boundary of a thread; its text may hold the address
                task.problem = type(error).__name__

        task = _Task(name, threading.Thread(target=run, name="tirazh-notify", daemon=True))
        self._tasks.append(task)
        task.thread.start()

    def wait(self) -> list[str]:
        """Wait until all are delivered, or TIMEOUT_S have passed since the first began.

        Returns a sentence about each that failed. Programs that still run are killed.
        """
        until = self._begin + TIMEOUT_S
        for task in self._tasks:
            task.thread.join(max(0.0, until - time.monotonic()))
            if task.thread.is_alive():
                task.problem = _LATE
                _kill(task.process)
        return [f"{task.name} was not told: {task.problem}" for task in self._tasks if task.problem]


def deliver(notifications: Sequence[Notification], message: Callable[[], RunMessage]) -> Delivery:
    """Begin to send a message to each receiver.

    `message` is called in the threads, since it may read files of the output.
    """
    delivery, once = Delivery(), _Once(message)
    for number, each in enumerate(notifications, start=1):
        name = "the receiver" if len(notifications) == 1 else f"receiver {number} of {len(notifications)}"
        if each.url is not None:
            delivery.start(name, lambda task, each=each: _post(make_request(each, once.value())))  # type: ignore[misc]
        if each.command:
            what = f"{name} (the command {os.path.basename(each.command[0])})"
            delivery.start(what, lambda task, each=each: _run(task, each.command, once.value()))  # type: ignore[misc]
    return delivery


class _Refused(Exception):
    """The receiver did not take the message."""


class _Once:
    """Computes a value in the first thread that asks for it."""

    def __init__(self, make: Callable[[], RunMessage]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._value: RunMessage | None = None

    def value(self) -> RunMessage:
        with self._lock:
            if self._value is None:
                self._value = self._make()
            return self._value


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: the next server would get a message that is not for it, and a POST would become a GET."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def _post(request: HttpRequest | None) -> None:
    assert request is not None, "the receiver has an address"
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "tirazh"}
    wanted = urllib.request.Request(request.address, data=request.body, headers=headers, method="POST")
    opener = urllib.request.build_opener(_NoRedirects)
    for is_last in (False, True):
        try:
            with opener.open(wanted, timeout=_REQUEST_TIMEOUT_S) as answer:
                answer.read(1)
            return
        except urllib.error.HTTPError as error:
            raise _Refused(f"it answered with the HTTP status {error.code}") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            # A server that refused the connection has not seen the message, so a second try sends no second one.
            if is_last or not isinstance(reason, ConnectionRefusedError):
                raise _Refused(_reason(reason)) from None
            time.sleep(_PAUSE_S)


def _reason(error: object) -> str:
    """Why a request failed, without the texts of libraries, which may hold the address."""
    if isinstance(error, TimeoutError):
        return _LATE
    if isinstance(error, ConnectionRefusedError):
        return "nothing answers at its address"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror
    return type(error).__name__


def _run(task: _Task, command: Sequence[str], message: RunMessage) -> None:
    """Run a program with the body on its standard input. No shell sees any text of the message."""
    try:
        task.process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment_of(message)},
            start_new_session=True,  # neither Ctrl-C nor the end of the run ends it
        )
    except OSError as error:
        raise _Refused(f"it could not be started: {error.strerror or type(error).__name__}") from None
    with contextlib.suppress(BrokenPipeError):
        task.process.communicate(to_json(message.to_dict()))
    if task.process.returncode:
        raise _Refused(f"it ended with the exit code {task.process.returncode}")


def environment_of(message: RunMessage) -> Mapping[str, str]:
    """The variables that a command gets, such as TIRAZH_SENTENCE; an unknown figure is an empty text."""
    values = {
        f"TIRAZH_{name.upper()}": "" if value is None else str(value) for name, value in message.to_dict().items()
    }
    return {name: value.replace("\0", "\ufffd") for name, value in values.items()}


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
