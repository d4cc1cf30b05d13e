"""Answer turns over a pipe: `python serve.py openvino_worker`, run by the Python of that engine's environment.

A line of JSON on stdin is a turn, and a line of JSON on stdout is its answer. Whatever the engine prints goes to
stderr, so that nothing of it reaches the pipe. The process ends with stdin, and with the process that started it.

This file uses the standard library alone: the environment has neither tirazh nor what tirazh needs.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1


def main(module: str) -> None:
    turns, answers = _own_pipes()
    _end_with_parent()
    engine = importlib.import_module(module).Engine()
    # The engines' own imports must not find the files in this folder.
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
    for line in turns:
        print(json.dumps(_answer(engine, json.loads(line))), file=answers, flush=True)
    # The engines' threads may not end by themselves.
    os._exit(0)


def _answer(engine: Any, turn: dict[str, Any]) -> dict[str, Any]:
    """Call the method that the turn names; an exception becomes an answer, so that the next turn can follow."""
    try:
        answer: dict[str, Any] = getattr(engine, turn.pop("call"))(**turn)
        return answer
    except Exception as error:  # noqa: BLE001 - the other side raises it again
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _own_pipes() -> tuple[TextIO, TextIO]:
    """Return the pipes of the protocol and give the engine an empty stdin, and stderr for its stdout."""
    turns, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(2, 1)
    return turns, answers


def _end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, even while it is paused. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
