"""`python -m tirazh` and the command `tirazh`: sets up the search path before anything else is imported."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command, and exit with its code."""
    leave_working_directory()
    from tirazh.jobs.cli import run

    run()


def leave_working_directory() -> None:
    """Remove the working directory from the search path of modules, unless tirazh itself was found there.

    Python puts it first for `python -m`, and an empty entry of PYTHONPATH means it, too. A file json.py or a
    directory torch/ of somebody's project would be imported instead of the real one.
    """
    try:
        here = os.getcwd()
    except OSError:  # it was deleted
        here = ""
    named = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if here in (os.path.dirname(os.path.dirname(os.path.abspath(__file__))), *map(os.path.abspath, named)):
        return
    sys.path[:] = [entry for entry in sys.path if entry not in ("", here)]
    if named:
        os.environ["PYTHONPATH"] = os.pathsep.join(named)


if __name__ == "__main__":
    main()
