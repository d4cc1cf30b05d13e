"""The message about the end of a command that runs a job: set up when the job is known, sent when the command ends.

The command line calls `end` with the exit code and the sentence that it prints, so a message says what the terminal
says. One command runs at a time in a process.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tirazh.errors import RequestError
from tirazh.jobs.tracking import add_track_flag, choose_tools

if TYPE_CHECKING:
    from tirazh.jobs.job_files.job_file import JobFile
    from tirazh.pipeline.notify.notifier import RunNotifier

HELP = {
    "--notify-url": "address to tell about the end of the run, as env:NAME of a variable that holds it",
    "--notify-command": "program to start at the end of the run; it reads a JSON object about the run from stdin",
    "--notify-on": "comma-separated: success, failure, change (default: success,failure)",
}
_HIDDEN = "TIRAZH_NOTIFY_ADDRESS_SECRET"
# A driver that ended with one of these was killed, and could tell nothing: SIGKILL, SIGSEGV and SIGABRT of a shell.
_KILLED = (134, 137, 139)
_current: RunNotifier | None = None
_is_submission = False
_lost_driver: str | None = None


def add_notify_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags that say who is told about the end of the run, and which tools record it."""
    for flag, text in HELP.items():
        group.add_argument(flag, metavar=flag.rsplit("-", 1)[-1].upper(), help=text)
    add_track_flag(group)


def hide_address() -> None:
    """Start the command again if its arguments hold an address, which is a secret: other users of the machine see
    the arguments of a process, and Ray stores those of a driver. The address moves to a variable."""
    flag, arguments = "--notify-url", list(sys.orig_argv)
    for index, argument in enumerate(arguments):
        name, has_value, value = argument.partition("=")
        if name != flag:
            continue
        if not has_value:
            value = arguments[index + 1] if index + 1 < len(arguments) else ""
        if "://" not in value:
            continue
        os.environ[_HIDDEN] = value
        reference = f"env:{_HIDDEN}"
        arguments[index : index + (1 if has_value else 2)] = [f"{flag}={reference}"]
        os.execv(sys.executable, arguments)


def forget() -> None:
    """No receiver is told about the end of this command."""
    global _current, _is_submission, _lost_driver
    _current, _is_submission, _lost_driver = None, False, None


def announce(
    options: argparse.Namespace,
    job: JobFile | None,
    *,
    kind: str | None,
    given: Mapping[str, Any],
    check_only: bool = False,
) -> None:
    """From here on, the receivers of the job file or of the flags are told about the end of this command.

    `given` are the settings of the flags. Raises RequestError for a wrong section. With `check_only` the section is
    checked, and no receiver is told.
    """
    from tirazh.pipeline.notify.notifier import RunNotifier
    from tirazh.pipeline.notify.settings import parse_notifications, read_notifications

    section = section_of(options, job)
    if section is None:
        choose_tools(options, job)
        return
    place = job.place("notify") if job is not None else ""
    if check_only:
        parse_notifications(section, place=place)
        choose_tools(options, job)
        return
    values = {**(job.values if job is not None else {}), **given}
    output, endpoint = (values.get(name) for name in ("output", "endpoint_url"))
    notifier = RunNotifier(
        read_notifications(section, place=place),
        kind=str((job.kind if job is not None else None) or kind or ""),
        output=output if isinstance(output, str) else "",
        endpoint_url=endpoint if isinstance(endpoint, str) else None,
    )
    notifier.look_back()
    global _current
    _current = notifier
    choose_tools(options, job)  # from here on, a refusal is told


def announce_submission(section: Any, *, kind: str | None, output: Any, place: str = "") -> None:
    """From here on, the receivers of a job for a cluster are told if this command fails before the job has a driver, or
    if its driver is killed. Everything else the driver tells. Raises RequestError for a wrong section."""
    from tirazh.pipeline.notify.notifier import RunNotifier
    from tirazh.pipeline.notify.settings import parse_notifications

    global _current, _is_submission
    receivers = parse_notifications(section, place=place)
    if receivers:
        _current = RunNotifier(receivers, kind=kind or "", output=output if isinstance(output, str) else "")
        _is_submission = True


def driver_ended(info: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """The driver of the job that this command follows has ended. `info` is Ray's description, `figures` the last ones
    of its log."""
    global _lost_driver
    code = info["driver_exit_code"]
    was_killed = info["status"] == "FAILED" and (code is None or code < 0 or code in _KILLED)
    if not was_killed:
        forget()
    else:
        names = {"rows": "rows_safe", "rows_total": "rows_total", "errors": "errors"}
        note(**{name: figures.get(theirs) for name, theirs in names.items()})
        signal = "" if code is None else f" by signal {-code if code < 0 else code - 128}"
        kept = "finished parts are kept, and the same command makes the rest"
        _lost_driver = f"the driver of {info['id']} was killed{signal}; {kept}"


def section_of(options: argparse.Namespace, job: JobFile | None) -> Any:
    """The section `notify` of the job file, with the flags: a receiver in the flags replaces those of the file."""
    url, command, on = (getattr(options, f"notify_{name}", None) for name in ("url", "command", "on"))
    section = job.notify if job is not None else None
    if url or command:
        section = {name: value for name, value in (("url", url), ("command", command)) if value}
    if on is None:
        return section
    if section is None:
        raise RequestError("--notify-on needs --notify-url, --notify-command or the section notify of a job file")
    events = [each.strip() for each in on.split(",")]
    entries = section if isinstance(section, list) else [section]
    return [{**each, "on": events} if isinstance(each, Mapping) else each for each in entries]


def note(**figures: Any) -> None:
    """Record figures of the run for the message: `rows`, `rows_total`, `errors`, `replica_deaths`, `report`."""
    if _current is not None:
        _current.figures |= {name: value for name, value in figures.items() if value is not None}


def note_event(event: Any) -> None:
    """Record the figures of a progress event of a job over rows, or of a training run."""
    rows = getattr(event, "rows_safe", getattr(event, "rows_done", None))
    note(rows=rows, rows_total=getattr(event, "rows_total", None), errors=getattr(event, "error_rows", None))


def note_manifest(manifest: Mapping[str, Any]) -> None:
    """Record the figures of a finished run."""
    from tirazh.pipeline.notify.run_files import report_of

    rows = manifest.get("rows", manifest.get("sequences"))
    figures = {name: manifest.get(name) for name in ("errors", "replica_deaths")}
    note(rows=rows, rows_total=rows, report=report_of(manifest["output"]), **figures)


def end(exit_code: int, sentence: str | None = None) -> None:
    """Tell that the command ends, and wait a few seconds at most. `sentence` None: as after a success."""
    notifier = _current
    if notifier is None or (_is_submission and exit_code in (0, 130, 143)):
        return
    notifier.end(exit_code, sentence if sentence is not None else _lost_driver or _success(notifier))
    for problem in notifier.wait():
        print(f"tirazh: warning: notify: {problem}", file=sys.stderr, flush=True)
    forget()


def begin_end(exit_code: int, sentence: str) -> None:
    """Tell that a signal ends the command, without waiting: its shutdown may take a while."""
    if _current is not None and not _is_submission:
        _current.end(exit_code, sentence)


def _success(notifier: RunNotifier) -> str:
    rows, errors = notifier.figures.get("rows"), notifier.figures.get("errors")
    if rows is None:
        return "the run is finished"
    failed = f", {errors:,} of them with an error" if errors else ""
    written = "1 row is written" if rows == 1 else f"{rows:,} rows are written"
    return written + failed
