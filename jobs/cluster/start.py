"""The first process of a submitted job: checks the Python and the packages of its machine, then runs the job.

Imports the standard library alone until then: where a package is missing, the user gets one sentence and no
traceback. Started as `python -m tirazh.jobs.cluster.start ID`, in the job's working directory.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

NEEDS_FILE = "needs.json"
JOB_FILE = "job.yaml"
# What stands in the two files, for a job in an image, to which Ray sends no working directory.
NEEDS_VARIABLE, JOB_VARIABLE = "TIRAZH_NEEDS", "TIRAZH_JOB"
# The section `notify` of the job file. One with addresses is in a file: Ray shows the variables of a job to everyone.
NOTIFY_FILE = "notify.json"
NOTIFY_VARIABLE = "TIRAZH_NOTIFY"
# Tells the command that it is a submitted job, and under which id.
ID_VARIABLE = "TIRAZH_JOB_ID"


def main() -> None:
    """Run the job, or print why this machine cannot, and exit with 2."""
    from tirazh.pipeline.execution.cluster.packages import find_problem

    needs = _read(NEEDS_FILE, NEEDS_VARIABLE)
    problem = find_problem(json.loads(needs)) if needs else None
    if problem is not None:
        print(f"tirazh: {problem}", file=sys.stderr, flush=True)
        _tell(problem)
        raise SystemExit(2)
    os.environ[ID_VARIABLE] = sys.argv[1]
    sys.argv = ["tirazh", "run", _job_file(), "--address", "auto"]
    from tirazh.__main__ import main as run

    run()


def _tell(problem: str) -> None:
    """Tell the receivers of the job that this machine cannot run it: `notify` needs the standard library alone."""
    section = _read(NOTIFY_FILE, NOTIFY_VARIABLE)
    if not section:
        return
    from tirazh.errors import TirazhError
    from tirazh.pipeline.notify.notifier import RunNotifier
    from tirazh.pipeline.notify.settings import read_notifications

    try:
        kind, output = _names()
        notifier = RunNotifier(read_notifications(json.loads(section)), kind=kind, output=output)
    except TirazhError as error:
        print(f"tirazh: warning: notify: {error}", file=sys.stderr, flush=True)
        return
    notifier.end(2, problem)
    for failed in notifier.wait():
        print(f"tirazh: warning: notify: {failed}", file=sys.stderr, flush=True)


def _names() -> tuple[str, str]:
    """Return the kind and the output of the job; empty ones where the machine has no package that reads its file."""
    try:
        import yaml
    except ImportError:
        return "", ""
    job = yaml.safe_load(_read(JOB_FILE, JOB_VARIABLE)) or {}
    return str(job.get("kind") or ""), str(job.get("output") or "")


def _read(file: str, variable: str) -> str:
    if os.path.exists(file):
        with open(file, encoding="utf-8") as stream:
            return stream.read()
    return os.environ.get(variable, "")


def _job_file() -> str:
    """Return the job file; one with the section `notify` is for this user alone."""
    notify = _read(NOTIFY_FILE, NOTIFY_VARIABLE)
    os.environ.pop(NOTIFY_VARIABLE, None)
    if os.path.exists(JOB_FILE) and not notify:
        return JOB_FILE
    text = _read(JOB_FILE, JOB_VARIABLE)
    if notify:
        # JSON is YAML, too: of a job in an image the whole file is.
        text = (
            json.dumps({**json.loads(text), "notify": json.loads(notify)})
            if text.startswith("{")
            else (f"{text.rstrip()}\nnotify: {notify}\n")
        )
    path = os.path.join(tempfile.mkdtemp(prefix="tirazh-job-"), JOB_FILE)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
    return path


if __name__ == "__main__":
    main()
