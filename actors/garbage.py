"""How often Python looks for garbage in cycles: seldom, in processes that rows pass through.

A part is tens of thousands of small objects, none of them in a cycle, and Python's default looks through what is there
after every 700 new ones: measured, 45 % of the CPU time of prompts, requests, results and columns together.
"""

from __future__ import annotations

import gc

_NEW_OBJECTS = 50_000


def collect_rarely() -> None:
    """From here on in this process. What is there already is never looked through again."""
    if gc.get_threshold()[0] != _NEW_OBJECTS:
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS, 20, 100)
