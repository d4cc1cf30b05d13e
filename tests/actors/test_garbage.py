"""The cyclic garbage collector runs rarely in processes that rows pass through, and still frees
cycles."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPOSITORY

CODE = """
import gc
from tirazh.actors.garbage import collect_rarely
class Node: pass
old_nodes = [Node() for _ in range(1000)]
collect_rarely()
collect_rarely()
frozen = gc.get_freeze_count()
counts = [gc.get_stats()[0]["collections"]]
rows = [{"row": row} for row in range(120_000)]
counts.append(gc.get_stats()[0]["collections"])
def make_cycle():
    node = Node()
    node.me = node
for _ in range(120_000):
    make_cycle()
left = sum(isinstance(each, Node) and hasattr(each, "me") for each in gc.get_objects())
print(frozen >= 1000, counts[1] - counts[0] <= 3, left < 60_000)
"""


def test_rows_are_rarely_examined_and_cycles_do_not_accumulate() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3
