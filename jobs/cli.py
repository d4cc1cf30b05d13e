"""The command line `tirazh`: its arguments, its exit codes and its error messages.

`commands.py` holds what each command does. Exit codes: 0 all rows written, 1 the job failed, 2 the
request was wrong, 3 a condition of `report --fail-on` holds, 130 Ctrl-C, 143 SIGTERM. Errors are one
sentence on stderr; results go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from tirazh.errors import TirazhError
from tirazh.jobs import commands, notifying
from tirazh.jobs.cluster.flags import add_cluster_flags
from tirazh.jobs.flags import add_flag, add_setting_flags, one_of, plain_address
from tirazh.jobs.interrupts import Interrupted, interruptible
from tirazh.jobs.library_output import log_directory
from tirazh.jobs.outputs.calibrate import add_calibrate_flags
from tirazh.jobs.outputs.evaluate import add_evaluate_flags
from tirazh.jobs.outputs.history import add_history_flags
from tirazh.jobs.outputs.prune import add_prune_flags
from tirazh.jobs.outputs.relabel import add_relabel_flags
from tirazh.jobs.outputs.report import add_report_flags
from tirazh.jobs.parser import Parser, parse
from tirazh.jobs.progress import STYLES
from tirazh.jobs.python_settings import ignore_error_warnings, restart_with_docstrings
from tirazh.jobs.settings import KINDS, settings_of
from tirazh.jobs.terminal.streams import STDERR, keep_write_errors, open_missing_streams, write_error
from tirazh.jobs.tuning.flags import add_tune_flags
from tirazh.pipeline.history.start_time import count_from_process_start
from tirazh.pipeline.storage.secrets import redact

MAX_MESSAGE_LENGTH = 1_000
CONVERT_DTYPES = ("float32", "bfloat16", "float16")
_LOGGERS_WITH_SECRETS = (
    "botocore",
    "aiobotocore",
    "aiohttp",
    "azure",
    "google",
    "urllib3",
    "fsspec",
    "s3fs",
    "gcsfs",
    "adlfs",
)
SUMMARIES = {
    "classify": "assign one of your labels to every row, with a probability for each label",
    "generate": "generate a completion for every prompt",
    "score": "compute the log-likelihood of every text, in nats and in bits per character",
    "embed": "write the model's last hidden state of every text",
    "finetune": "train a model further on texts, or on prompts with completions",
    "run": "run a job file of any kind, also one of several steps",
    "plan": "show the parts, tokens, memory and time of a job without starting it",
    "preview": "make a few rows of a job in this process, without Ray, and forecast the job",
    "tune": "find the template, examples, scoring and calibration of a classify job that are best on labelled rows",
    "verify": "check that every input row is in the output exactly once and every file is intact",
    "report": "write the HTML report again, and compare with other runs",
    "evaluate": "measure the labels of a finished output against gold labels, without Ray",
    "calibrate": "fit a calibration on the rows of a finished output that have a gold label, without Ray",
    "relabel": "make a finished output again with another threshold or a calibration, without Ray and the model",
    "history": "show the runs of one or several outputs",
    "prune": "remove old outputs below a directory",
    "convert": "convert a checkpoint to a safetensors directory",
    "submit": "run a job file on a Ray cluster",
    "status": "show the state of a submitted job, of all jobs on a cluster, or of an output directory",
    "logs": "show the log of a submitted job",
    "stop": "stop a submitted job; finished parts are kept",
    "resume": "submit a stopped or failed job again; it resumes from its finished parts",
    "demo": "classify and continue sample texts on this machine with the embedded model",
}
# Commands whose result is more than what they print.
WRITING_COMMANDS = (
    *("classify", "generate", "score", "embed", "finetune", "run", "report", "evaluate", "convert", "submit", "stop"),
    *("calibrate", "relabel", "resume", "demo", "tune", "prune"),
)
DOCS = "docs/README.md in the source tree lists the guides; docs/python-api.md describes the same jobs from Python"


def run() -> NoReturn:
    """Run the command as a process of its own.

    Works without standard streams. Silences the shutdown output of libraries, which takes some seconds, and
    ignores signals once the result is printed: a finished job must not end as a killed one.
    """
    restart_with_docstrings()
    notifying.hide_address()
    open_missing_streams()
    keep_write_errors()
    ignore_error_warnings()
    count_from_process_start()
    code = main()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    code = _check_printed(sys.argv[1:], code)
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)
    logging.shutdown()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    # Not `sys.exit`: Ray's C++ threads may end the process with another exit code while Python shuts down.
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Raises nothing and prints no traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = argparse.Namespace()
    notifying.forget()
    try:
        # Catch signals before the slow imports of a command: some libraries swallow a
        # KeyboardInterrupt.
        with interruptible(lambda: "interrupted"):
            parser, by_name = build_parser()
            if not arguments:
                parser.print_help()
                return 2
            options = parse(parser, by_name, arguments)
            _set_up_logging(getattr(options, "verbose", 0))
            code = commands.COMMANDS[options.command](options)
        notifying.end(code)
        return code
    except TirazhError as error:
        return _fail("; ".join((one_sentence(error), *_notes(error))), _cause(error).exit_code)
    except Interrupted as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as `head`, has ended
        return 0
    except SystemExit as end:  # --help and --version
        return end.code if isinstance(end.code, int) else 0
    except OSError as error:
        return _fail(_os_error(error), 1)
    except Exception as error:  # noqa: BLE001 - the process boundary
        place = "; ".join(_notes(error)) or _log_traceback(options)
        return _fail(f"internal error: {_first_line(error)}; {place}", 1)


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the command line, and the parser of each command by name."""
    parser = Parser(
        prog="tirazh",
        description="Offline batch inference with GPT-3-class sparse models: Parquet prompts in, "
        "completions and labels out.",
        epilog="`tirazh COMMAND --help` describes a command. Exit codes: 0 all rows written, 1 the job failed, "
        "2 the request was wrong, 3 a condition of report --fail-on holds, 130 Ctrl-C, 143 SIGTERM. "
        f"The same from Python: `import tirazh; help(tirazh)`. Documentation: {DOCS}.",
    )
    parser.add_argument("--version", action="version", version=f"tirazh {_version()}")
    add = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    by_name = {name: add.add_parser(name, help=text, description=text) for name, text in SUMMARIES.items()}
    for kind in KINDS:
        add_setting_flags(by_name[kind], kind)
        _add_run_flags(by_name[kind])
    for name in (*KINDS, "run", "plan", "preview", "submit", "tune"):
        _add_set(by_name[name])
    _add_run(by_name["run"])
    _add_output_commands(by_name)
    _add_convert(by_name["convert"])
    add_cluster_flags(by_name)
    by_name["demo"].add_argument("--output", default="demo-output", help="directory (default: demo-output)")
    _add_progress_flag(by_name["demo"])
    for name in ("run", "plan", "preview", "verify", "report", "convert", "submit", "status", "stop", "resume", "demo"):
        _add_output_flags(by_name[name])
    for name in ("evaluate", "calibrate", "relabel", "history", "prune"):
        _add_output_flags(by_name[name])
    add_tune_flags(by_name["tune"])
    _add_output_flags(by_name["tune"])
    return parser, by_name


def one_sentence(error: TirazhError) -> str:
    """Return the error's message on one line; of an error from a Ray task, the original message.

    The result is safe to print: quoted input data may be very long or hold terminal control
    characters.
    """
    # Redacted before it is cut: the beginning of a secret is not recognised.
    text = " ".join(redact(str(_cause(error))).split())
    text = text if len(text) <= MAX_MESSAGE_LENGTH else text[:MAX_MESSAGE_LENGTH] + "…"
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _add_run_flags(parser: Parser) -> None:
    group = parser.add_argument_group("command options")
    group.add_argument("--config", metavar="JOB.YAML", help="job file with these settings; flags override it")
    group.add_argument("--dry-run", action="store_true", help="print the plan without starting the job")
    _add_progress_flag(group)
    notifying.add_notify_flags(group)
    _add_output_flags(group)


def _add_set(parser: Parser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="variables",
        metavar="NAME=VALUE",
        help="value of a variable {{ NAME }} in paths of the job file and of flags (repeatable); date=2026-11-23 runs "
        "the job of that day",
    )


def _add_run(parser: Parser) -> None:
    parser.add_argument("job", metavar="JOB.YAML", help="job file: kind, input, output, ...")
    add_flag(parser, settings_of("classify")["address"])
    parser.add_argument("--dry-run", action="store_true", help="print the plan without starting the job")
    _add_progress_flag(parser)
    notifying.add_notify_flags(parser)


def _add_progress_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--progress",
        type=one_of(STYLES),
        metavar="STYLE",
        help="bar, lines (one every ten seconds) or json (one object a line, for programs), on stderr; default: bar on "
        "a terminal, else lines",
    )


def _add_output_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument("--json", action="store_true", help="print only the result to stdout, as JSON")
    group.add_argument("-v", "--verbose", action="count", default=0, help="log at level INFO (-vv: DEBUG)")
    group.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def _add_output_commands(by_name: dict[str, Parser]) -> None:
    for name in ("plan", "preview"):
        by_name[name].add_argument("job", metavar="JOB.YAML", help="job file: kind, input, output, ...")
    by_name["plan"].add_argument(
        "--probe", action="store_true", help="make some rows in this process, without Ray, to measure the speed"
    )
    by_name["plan"].add_argument(
        "--price-per-hour",
        type=float,
        metavar="PRICE",
        help="price of what one replica runs on for an hour (a machine, or its GPUs): adds the cost of the job",
    )
    by_name["preview"].add_argument(
        "--rows", type=int, default=8, metavar="N", help="rows to make, spread over the whole input (default: 8)"
    )
    for name in ("verify", "report", "evaluate", "calibrate", "relabel"):
        by_name[name].add_argument("output", type=plain_address, metavar="OUTPUT", help="output directory of a job")
        by_name[name].add_argument(
            "--endpoint-url", type=plain_address, help="URL of an S3-compatible server or an Azure emulator"
        )
    by_name["verify"].add_argument(
        "--skip-input",
        action="store_true",
        help="do not compare the output with the current input, e.g. because it was archived",
    )
    add_evaluate_flags(by_name["evaluate"])
    add_calibrate_flags(by_name["calibrate"])
    add_relabel_flags(by_name["relabel"])
    add_history_flags(by_name["history"])
    add_prune_flags(by_name["prune"])
    add_report_flags(by_name["report"])


def _add_convert(parser: Parser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        help="ru-gpts, Megatron, Hugging Face GPT-2 or XL port directory, or a checkpoint of finetune",
    )
    parser.add_argument("out", metavar="OUT", help="directory to write")
    parser.add_argument(
        "--dtype",
        type=one_of(CONVERT_DTYPES),
        metavar="|".join(CONVERT_DTYPES),
        help="data type of the written weights (default: that of the checkpoint)",
    )
    for name in commands.CONVERT_SETTINGS:
        add_flag(parser, settings_of("generate")[name])


def _fail(message: str, exit_code: int) -> int:
    message = redact(message)
    print(f"tirazh: {message}", file=sys.stderr, flush=True)
    notifying.end(exit_code, message)
    return exit_code


def _check_printed(arguments: Sequence[str], code: int) -> int:
    """Return the exit code. If the result could not be printed, say so; it is 1 if what is printed is all of it."""
    error = write_error(sys.stdout)
    if error is None or isinstance(error, BrokenPipeError):  # the reader, such as `head`, has ended
        return code
    is_kept = arguments[:1] and arguments[0] in WRITING_COMMANDS and not {"--json", "--dry-run"} & set(arguments)
    what = (
        "the summary could not be printed, but the command has done its work"
        if is_kept and not code
        else "the result could not be printed"
    )
    reason = f"standard output: {error.strerror or error}"
    return _fail(f"{what}: {reason}", code if is_kept else code or 1)


def _cause(error: TirazhError) -> TirazhError:
    """Return the original error of a worker, which Ray re-raises as a class of its own."""
    cause = getattr(error, "cause", None)
    return _cause(cause) if isinstance(cause, TirazhError) else error


def _notes(error: BaseException) -> list[str]:
    """Return where the log of the failed run is, if it is not in its usual place."""
    return list(getattr(error, "__notes__", []))


def _os_error(error: OSError) -> str:
    try:
        os.getcwd()
    except OSError:
        return "the working directory does not exist any more: change to another one, or name absolute paths"
    hint = "; set TMPDIR to a directory that can be written to" if "temporary directory" in str(error) else ""
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}{hint}"


def _first_line(error: Exception) -> str:
    lines = redact(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _log_traceback(options: argparse.Namespace) -> str:
    """Write the traceback of the current exception to the job's logs, or to a temporary directory.

    Returns the place, as the end of a sentence. A failure to write must not hide the error itself.
    """
    text = redact(traceback.format_exc())
    try:
        logs = log_directory(getattr(options, "output", None) or os.devnull) or Path(tempfile.mkdtemp(prefix="tirazh-"))
        logs.mkdir(exist_ok=True)
        path = logs / "internal-error.log"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        return f"the traceback could not be written: {error.strerror or error}"
    return f"the traceback is in {path}"


def _set_up_logging(verbose: int) -> None:
    level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    logging.basicConfig(level=level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_CleanFormatter("%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S"))
    for name in _LOGGERS_WITH_SECRETS:  # at DEBUG they log requests with signed headers and session tokens
        logging.getLogger(name).setLevel(max(level, logging.INFO))


class _CleanFormatter(logging.Formatter):
    """Removes secrets from every line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _version() -> str:
    try:
        return version("tirazh")
    except PackageNotFoundError:  # run from the working directory of a submitted job
        return "(not installed)"


if __name__ == "__main__":
    run()
