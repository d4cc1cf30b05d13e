"""Records the run of a command in the tools that the job file, --track or the environment name."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tirazh.errors import TirazhError

if TYPE_CHECKING:
    from tirazh.jobs.job_files.job_file import JobFile

VARIABLE = "TIRAZH_TRACK"
HELP = "comma-separated tools that record the run: mlflow, wandb, tensorboard, openlineage"


def add_track_flag(group: argparse._ActionsContainer) -> None:
    """Add the flag --track."""
    group.add_argument("--track", metavar="TOOLS", help=HELP)


def choose_tools(options: argparse.Namespace, job: JobFile | None) -> None:
    """Decide which tools record the run, and keep them in `options`. Raises RequestError for one that cannot."""
    from tirazh.pipeline.tracking.settings import read_tools

    given = getattr(options, "track", None)
    section = given if given is not None else job.track if job is not None else None
    if section is None:  # `submit` passes the section on in this variable
        section = os.environ.get(VARIABLE) or None
    place = job.place("track") if job is not None and given is None else ""
    options.track_tools = read_tools(section, place=place or ("--" if given is not None else ""))


@dataclass(frozen=True, slots=True)
class Tracking:
    """What the code that runs a job calls: `show` for each event, `finish` with the manifest."""

    show: Callable[[Any], None]
    finish: Callable[[Mapping[str, Any]], None]


@contextmanager
def tracked(spec: Any, tools: tuple[str, ...]) -> Iterator[Tracking]:
    """Inside the block, the run of a spec is recorded; so is how it ends."""
    if not tools:
        yield Tracking(lambda event: None, lambda manifest: None)
        return
    from tirazh.pipeline.storage.errors import show_uri
    from tirazh.pipeline.tracking.record import RunEnd, RunStart, figures_of_manifest
    from tirazh.pipeline.tracking.recorder import Recorder

    recorder = Recorder(tools, _warn)
    output = show_uri(spec.output)
    recorder.begin(
        RunStart(
            name=output.rstrip("/").rsplit("/", 1)[-1],
            kind=spec.kind,
            inputs=tuple(map(show_uri, _inputs(spec))),
            output=output,
            settings=spec.to_dict(),
        )
    )
    figures: dict[str, float] = {}
    try:
        yield Tracking(recorder.progress, lambda manifest: figures.update(figures_of_manifest(manifest)))
    except BaseException as error:
        recorder.end(_failed(error))
        raise
    recorder.end(RunEnd(outcome="success", exit_code=0, figures=figures))


def _inputs(spec: Any) -> tuple[str, ...]:
    """The input of a job; of one of several steps that of its first step."""
    steps = getattr(spec, "steps", None)
    return tuple(getattr(steps[0].spec if steps else spec, "input", ()))


def _failed(error: BaseException) -> Any:
    from tirazh.pipeline.storage.secrets import redact
    from tirazh.pipeline.tracking.record import RunEnd

    if isinstance(error, KeyboardInterrupt | SystemExit):
        return RunEnd(outcome="interrupted", exit_code=None, sentence="interrupted")
    sentence = redact(" ".join(str(error).split()))
    return RunEnd(
        outcome="failure", exit_code=error.exit_code if isinstance(error, TirazhError) else 1, sentence=sentence
    )


def _warn(text: str) -> None:
    print(f"tirazh: warning: {text}", file=sys.stderr, flush=True)
