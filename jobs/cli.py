"""`tirazh`: the command line. What may be typed is here; what each command does is in `commands.py`.

Exit codes: 0 all rows written, 1 the job failed, 2 the request was wrong, 130 Ctrl-C, 143 SIGTERM. Errors are one
sentence on stderr; results go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
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
from tirazh.jobs import commands
from tirazh.jobs.flags import add_flag, add_setting_flags, one_of
from tirazh.jobs.interrupts import Interrupted, interruptible
from tirazh.jobs.library_output import log_directory
from tirazh.jobs.parser import Parser, parse
from tirazh.jobs.settings import KINDS, settings_of
from tirazh.pipeline.storage.secrets import redact

LONGEST_SENTENCE = 1_000
CONVERT_DTYPES = ("float32", "bfloat16", "float16")
_INDISCREET = ("botocore", "aiobotocore", "aiohttp", "azure", "google", "urllib3", "fsspec", "s3fs", "gcsfs", "adlfs")
SUMMARIES = {
    "classify": "label every row with one of your labels, with a probability for each",
    "generate": "continue every prompt",
    "finetune": "train a model further on your texts, or on prompts with their completions",
    "plan": "parts, tokens, memory and time of a job; starts nothing",
    "verify": "check that every input row is in the output exactly once and every file is whole",
    "report": "write the report page again, or compare with another run",
    "convert": "turn any checkpoint we can read into a safetensors directory",
    "submit": "run a job file on a Ray cluster",
    "status": "how a submitted job is doing",
    "logs": "what a submitted job has printed",
    "stop": "stop a submitted job; the parts that are written stay",
    "resume": "submit a stopped or failed job again; it goes on where it stopped",
    "demo": "classify and continue sample texts with the embedded model, here and now",
}


def run() -> NoReturn:
    """The command as a process of its own. After its last word come only the libraries' goodbyes, some seconds of them:
    nobody hears those, and no signal turns a job that is done into one that was killed."""
    code = main()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(nowhere, sys.stdout.fileno())
    sys.stderr.flush()
    os.dup2(nowhere, sys.stderr.fileno())
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Never raises and never shows a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = argparse.Namespace()
    try:
        # From here on: what a command imports before it can say how far it is may swallow a KeyboardInterrupt.
        with interruptible(lambda: "interrupted"):
            parser, by_name = build_parser()
            if not arguments:
                parser.print_help()
                return 2
            options = parse(parser, by_name, arguments)
            _set_up_logging(getattr(options, "verbose", 0))
            return commands.RUN[options.command](options)
    except TirazhError as error:
        return _fail(one_sentence(error), _cause(error).exit_code)
    except Interrupted as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has read enough
        return 0
    except SystemExit as end:  # --help and --version
        return end.code if isinstance(end.code, int) else 0
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except Exception as error:  # noqa: BLE001 - the process boundary
        return _fail(f"internal error: {_first_line(error)}; {_log_traceback(options)}", 1)


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The whole command line, and the parser of each command by its name."""
    parser = Parser(
        prog="tirazh",
        description="Offline batch inference with GPT-3-class sparse models: Parquet prompts in, "
        "completions and labels out.",
        epilog="`tirazh COMMAND --help` explains a command. Exit codes: 0 all rows written, 1 the job failed, "
        "2 the request was wrong, 130 Ctrl-C, 143 SIGTERM.",
    )
    parser.add_argument("--version", action="version", version=f"tirazh {_version()}")
    add = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    by_name = {name: add.add_parser(name, help=words, description=words) for name, words in SUMMARIES.items()}
    for kind in KINDS:
        add_setting_flags(by_name[kind], kind)
        _add_run_flags(by_name[kind])
    _add_output_commands(by_name)
    _add_convert(by_name["convert"])
    _add_cluster_commands(by_name)
    by_name["demo"].add_argument("--output", default="demo-output", help="directory (default: demo-output)")
    for name in ("plan", "verify", "report", "convert", "submit", "status", "stop", "resume", "demo"):
        _add_talk(by_name[name])
    return parser, by_name


def one_sentence(error: TirazhError) -> str:
    """The error's message on one line; for an error that came out of a Ray task, the original's. Made safe to print:
    what it quotes may come from anybody, be endless, or steer the terminal."""
    text = " ".join(str(_cause(error)).split())
    text = text if len(text) <= LONGEST_SENTENCE else text[:LONGEST_SENTENCE] + "…"
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def _add_run_flags(parser: Parser) -> None:
    group = parser.add_argument_group("this command")
    group.add_argument("--config", metavar="JOB.YAML", help="job file with the same names; flags win over it")
    group.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    _add_talk(group)


def _add_talk(group: argparse._ActionsContainer) -> None:
    group.add_argument("--json", action="store_true", help="print the result as JSON, and only that, to stdout")
    group.add_argument("-v", "--verbose", action="count", default=0, help="log what happens (-vv: everything)")
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")


def _add_output_commands(by_name: dict[str, Parser]) -> None:
    by_name["plan"].add_argument("job", metavar="JOB.YAML", help="job file: kind, input, output, ...")
    for name in ("verify", "report"):
        by_name[name].add_argument("output", metavar="OUTPUT", help="a job's output directory")
        by_name[name].add_argument("--endpoint-url", help="address of an S3-compatible server or an emulator")
    by_name["report"].add_argument("--against", metavar="OUTPUT2", help="another run's output to compare with")


def _add_convert(parser: Parser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="ru-gpts, Megatron, Hugging Face GPT-2 or XL port")
    parser.add_argument("out", metavar="OUT", help="directory to write")
    parser.add_argument(
        "--dtype",
        type=one_of(CONVERT_DTYPES),
        metavar="|".join(CONVERT_DTYPES),
        help="of the new files (default: kept)",
    )
    for name in commands.CONVERT_SETTINGS:
        add_flag(parser, settings_of("generate")[name])


def _add_cluster_commands(by_name: dict[str, Parser]) -> None:
    by_name["submit"].add_argument("job", metavar="JOB.YAML", help="job file: kind, input, output, ...")
    for name in ("status", "logs", "stop", "resume"):
        by_name[name].add_argument("id", metavar="ID", help="the id that submit printed")
    for name in ("submit", "status", "logs", "stop", "resume"):
        by_name[name].add_argument("--address", metavar="URL", help="the cluster's job server, e.g. http://head:8265")
    for name in ("submit", "logs", "resume"):
        by_name[name].add_argument("--follow", action="store_true", help="show the log until the job ends")


def _fail(message: str, exit_code: int) -> int:
    print(f"tirazh: {redact(message)}", file=sys.stderr, flush=True)
    return exit_code


def _cause(error: TirazhError) -> TirazhError:
    """Ray re-raises a worker's error as a class of its own, with the worker's traceback as its message."""
    cause = getattr(error, "cause", None)
    return _cause(cause) if isinstance(cause, TirazhError) else error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _log_traceback(options: argparse.Namespace) -> str:
    """Keep the traceback of the exception at hand beside the job's other logs, or in a temporary place. Returns where
    it is, as the end of a sentence; a disk that takes nothing more must not hide the error itself."""
    text = redact(traceback.format_exc())
    try:
        logs = log_directory(getattr(options, "output", None) or os.devnull) or Path(tempfile.mkdtemp(prefix="tirazh-"))
        logs.mkdir(exist_ok=True)
        path = logs / "internal-error.log"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        return f"the traceback could not be kept: {error.strerror or error}"
    return f"the traceback is in {path}"


def _set_up_logging(verbose: int) -> None:
    level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    logging.basicConfig(level=level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_CleanFormatter("%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S"))
    for name in _INDISCREET:  # at DEBUG they log whole requests, signed headers and session tokens with them
        logging.getLogger(name).setLevel(max(level, logging.INFO))


class _CleanFormatter(logging.Formatter):
    """Takes secrets out of every line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _version() -> str:
    try:
        return version("tirazh")
    except PackageNotFoundError:  # run from a directory that was shipped to a cluster
        return "(not installed)"


if __name__ == "__main__":
    run()
