"""The command `tirazh calibrate`."""

from __future__ import annotations

import argparse

from tirazh.jobs import console
from tirazh.jobs.flags import one_of
from tirazh.jobs.outputs.gold_flags import add_gold_flags, address, gold_of
from tirazh.jobs.terminal.calibration_text import calibration_text

METHODS = ("auto", "temperature", "vector", "isotonic", "batch")


def add_calibrate_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `tirazh calibrate`, besides OUTPUT and those of every command."""
    add_gold_flags(parser, "by default those of the job's --gold-column")
    parser.add_argument(
        "--method",
        type=one_of(METHODS),
        default="auto",
        metavar="|".join(METHODS),
        help="what is fitted (default: auto, the method with the lowest cross-validated log-loss, a simpler one unless "
        "the gain is more than its standard error)",
    )
    parser.add_argument("--out", type=address, required=True, metavar="FILE", help="calibration file (JSON) to write")
    parser.add_argument("--question", metavar="NAME", help="which question of a job with several")


def run_calibration(options: argparse.Namespace) -> int:
    """Run `tirazh calibrate`."""
    from tirazh.pipeline.relabel.fit import calibrate_output

    found = calibrate_output(
        options.output,
        gold_of(options),
        out=options.out,
        method=options.method,
        question=options.question,
        endpoint_url=options.endpoint_url,
    )
    if options.json:
        console.show_facts(found, as_json=True, quiet=False)
    elif not options.quiet:
        console.say(calibration_text(found))
    return 0
