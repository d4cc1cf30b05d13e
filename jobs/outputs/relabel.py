"""The command `tirazh relabel`."""

from __future__ import annotations

import argparse

from tirazh.jobs import console
from tirazh.jobs.outputs.gold_flags import add_gold_flags, address, gold_of
from tirazh.jobs.terminal.calibration_text import relabel_text


def add_relabel_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `tirazh relabel`, besides OUTPUT and those of every command."""
    parser.add_argument("--out", type=address, required=True, metavar="NEW", help="directory of the new output")
    parser.add_argument("--abstain-below", type=float, metavar="P", help="the label is null below this confidence")
    parser.add_argument(
        "--target-error",
        type=float,
        metavar="E",
        help="abstain as often as needed so that at most the share E of the answers is wrong, by the labelled rows of "
        "--calibration or of the gold labels",
    )
    parser.add_argument(
        "--calibration", type=address, metavar="FILE", help="calibration file: the probabilities change too"
    )
    parser.add_argument("--question", metavar="NAME", help="which question of a job with several (default: all)")
    add_gold_flags(parser, "for --target-error without --calibration; by default those of the job's --gold-column")


def run_relabelling(options: argparse.Namespace) -> int:
    """Run `tirazh relabel`."""
    from tirazh.pipeline.relabel.command import relabel_output
    from tirazh.pipeline.relabel.request import RelabelRequest

    request = RelabelRequest(
        abstain_below=options.abstain_below,
        target_error=options.target_error,
        calibration=options.calibration,
        question=options.question,
        gold=gold_of(options),
    )
    tell = None if options.quiet or options.json else console.say
    manifest = relabel_output(options.output, options.out, request, endpoint_url=options.endpoint_url, tell=tell)
    if options.json:
        console.show_facts(manifest, as_json=True, quiet=False)
    elif not options.quiet:
        console.say(relabel_text(manifest))
    return 0
