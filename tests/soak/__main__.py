"""`python -m tests.soak --seed 7 --faults 200`: real jobs, real faults, and a table of what came of them."""

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
    os.environ.update(
        settings(folder / "r")
    )  # Ray reads its own when it is imported, which the rest of this package does

    from tests.soak.schedule import run

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: cleans up and shows the table
    return run(options, folder)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="decides kinds, moments and targets")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further job after this long")
    parser.add_argument("--kinds", nargs="+", metavar="BEGINNING", help="only kinds whose names begin so")
    parser.add_argument("--output", help="file that receives the table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
