"""`python -m tests.soak --seed 7 --faults 200`: injects faults into real jobs and prints a table of the results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.cluster import settings


def main() -> int:
    options = _parse()
    folder = Path(tempfile.mkdtemp(prefix="soak"))
    # Ray reads its environment variables on import, and the other modules of this package import
    # it.
    os.environ.update(settings(folder / "r"))

    from tests.soak.schedule import run

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: cleans up and prints the table
    return run(options, folder)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="seed of the kinds, times and targets of the faults")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=90.0, help="start no further job after so many minutes")
    parser.add_argument("--kinds", nargs="+", metavar="PREFIX", help="only kinds whose names begin so")
    parser.add_argument("--output", help="file that receives the table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
