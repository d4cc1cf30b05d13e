"""The command `tirazh report`: the HTML report of an output, compared with others, and conditions that end with 3."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tirazh.errors import RequestError
from tirazh.jobs import console
from tirazh.jobs.outputs.gold_flags import address

if TYPE_CHECKING:
    from tirazh.pipeline.drift.conditions import Condition

# A condition of --fail-on holds.
CONDITION_HOLDS = 3


def add_report_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `tirazh report`, besides OUTPUT and those of every command."""
    parser.add_argument(
        "--against",
        type=address,
        action="extend",
        nargs="+",
        default=[],
        metavar="LAST",
        help="outputs of other runs to compare with, together one baseline: directories, or quoted patterns such as "
        "'labelled/2026-11-*'",
    )
    parser.add_argument(
        "--fail-on",
        type=_conditions,
        default=(),
        metavar="EXPR",
        help=f"end with exit code {CONDITION_HOLDS} if a condition holds: labels>0.1,accuracy<-0.05,rows±50%%. A "
        "number with a sign is a difference to the baselines, one without a sign the value itself. Names: labels "
        "(PSI), drift (any change beyond chance), rows, errors, abstained, confidence, estimated_accuracy, accuracy, "
        "macro_f1, length, seconds and others",
    )
    parser.add_argument(
        "--key",
        metavar="COLUMN",
        help="column that names a row in all outputs, to find rows with another label (default: the job's key, else "
        "the columns of the prompt)",
    )


def run_report(options: argparse.Namespace) -> int:
    """Run `tirazh report`."""
    from tirazh.pipeline.drift.run import report_output

    found = report_output(
        options.output,
        against=options.against,
        conditions=options.fail_on,
        key=options.key,
        endpoint_url=options.endpoint_url,
        with_figures=options.json,
    )
    if options.json:
        console.show_facts(found.to_dict(), as_json=True, quiet=False)
    elif not options.quiet:
        for sentence in _sentences(found.values):
            console.say(sentence)
        console.show_facts({"report": found.page}, as_json=False, quiet=False)
    if found.failure is None:
        return 0
    console.fail(found.failure)
    return CONDITION_HOLDS


def _sentences(values: dict[str, Any]) -> list[str]:
    """What is printed of a comparison: its verdict, and how the jobs differ."""
    differences = [f"{each}." for each in values.get("differences", ())]
    return [*values.get("verdict", ()), *differences, *values.get("notes", ())]


def _conditions(text: str) -> tuple[Condition, ...]:
    from tirazh.pipeline.drift.conditions import parse_conditions

    try:
        return parse_conditions(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--fail-on").lstrip(": ")) from error
