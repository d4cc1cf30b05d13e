"""Ctrl-C and SIGTERM end a command with one sentence and exit code 128 + signal, even when its shutdown hangs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tirazh.jobs.interrupts import Interrupted, interruptible

REPOSITORY = Path(__file__).resolve().parents[2]
HANGS = """
import os, signal, sys, time
from tirazh.jobs import interrupts
interrupts.PATIENCE_S = 0.2
with interrupts.interruptible(lambda: "interrupted: 3 of 7 parts are written"):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        {closing}
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_one_sentence_and_its_exit_code(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"^3 of 7$") as caught, interruptible(lambda: "3 of 7"):
        signal.raise_signal(number)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_the_exit_of_rays_sigterm_handler_counts_as_sigterm() -> None:
    with pytest.raises(Interrupted) as caught, interruptible(lambda: "so far"):
        sys.exit(signal.SIGTERM)
    assert caught.value.exit_code == 143


def test_a_block_around_another_keeps_the_exit_code_of_its_signal() -> None:
    outer = interruptible(lambda: "outer")
    with pytest.raises(Interrupted, match="inner") as caught, outer, interruptible(lambda: "inner"):
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 143


def test_other_system_exits_pass_through() -> None:
    with pytest.raises(SystemExit), interruptible(lambda: "so far"):
        sys.exit(3)


@pytest.mark.parametrize("closing", ["time.sleep(60)", "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"])
def test_a_shutdown_that_hangs_is_ended(closing: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS.format(closing=closing)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 143
    assert done.stderr == "tirazh: interrupted: 3 of 7 parts are written\n"


def test_an_interrupt_that_a_library_swallows_still_ends_the_command() -> None:
    """As a library does that is being imported."""
    swallows = """
import os, signal, time
from tirazh.jobs import cli
from tirazh.jobs import commands
from tirazh.jobs import interrupts
interrupts.PATIENCE_S = 0.2
def swallow(options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(60)
commands.COMMANDS["demo"] = swallow
cli.main(["demo"])
"""
    done = subprocess.run(
        [sys.executable, "-c", swallows], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (130, "tirazh: interrupted\n")


def test_signal_handlers_are_not_changed_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)
    handlers = []

    def work() -> None:
        with interruptible(lambda: ""):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]


PROGRAM = """
import atexit, sys, time
from tirazh.jobs import cli

def at_exit():  # as Ray and other libraries do when a process ends
    print("closing", flush=True)
    time.sleep(1)
    raise TypeError("no owner found")

atexit.register(at_exit)
sys.argv = ["tirazh", "--version"]
cli.run()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_result_does_not_change_the_exit_code(number: signal.Signals) -> None:
    """While libraries shut down, a signal changes no exit code, and their error messages are not shown."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("tirazh ")
    assert process.stdout.readline() == "closing\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


def explain() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        raise Interrupted("the job continues") from None


def test_a_command_that_explains_the_interruption_keeps_the_exit_code_of_its_signal() -> None:
    with pytest.raises(Interrupted, match="the job continues") as caught, interruptible(lambda: "so far"):
        explain()
    assert caught.value.exit_code == 143


def receive(*numbers: signal.Signals, before: threading.Event, then: threading.Event) -> None:
    """A block that receives signals and goes on until it is interrupted. It sets `then` after the signals."""
    with interruptible(lambda: "so far", before=lambda: bool(before.wait(60)) and None):
        for number in numbers:
            signal.raise_signal(number)
        then.set()
        threading.Event().wait(60)


def test_the_block_goes_on_until_it_may_end_in_order() -> None:
    goes_on = threading.Event()
    with pytest.raises(Interrupted, match="so far") as caught:
        receive(signal.SIGTERM, before=goes_on, then=goes_on)
    assert goes_on.is_set()
    assert caught.value.exit_code == 143


def test_a_second_signal_does_not_wait_for_the_end_in_order() -> None:
    ended, goes_on = threading.Event(), threading.Event()
    with pytest.raises(Interrupted):
        receive(signal.SIGTERM, signal.SIGTERM, before=ended, then=goes_on)
    assert not goes_on.is_set()
    ended.set()


def test_a_block_that_ends_by_itself_meanwhile_is_not_interrupted() -> None:
    may_end = threading.Event()
    with interruptible(lambda: "so far", before=lambda: bool(may_end.wait(60)) and None):
        signal.raise_signal(signal.SIGTERM)
    may_end.set()
