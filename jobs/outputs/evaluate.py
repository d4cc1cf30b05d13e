"""The command `tirazh evaluate`: figures of a finished output against gold labels, without Ray or the model."""

from __future__ import annotations

import argparse

from tirazh.jobs import console
from tirazh.jobs.terminal.evaluation_text import evaluation_text
from tirazh.pipeline.storage.secrets import holds_secret


def add_evaluate_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `tirazh evaluate`, besides OUTPUT and those of every command."""
    gold = parser.add_argument_group("gold labels", "by default those of the job's --gold-column")
    gold.add_argument("--gold", type=_file, metavar="FILE", help="Parquet, CSV or JSONL file with gold labels")
    gold.add_argument("--key", metavar="COLUMN", help="column of the output and of FILE that names a row")
    gold.add_argument("--gold-label", metavar="COLUMN", help="column of FILE with the gold label (default: label)")
    gold.add_argument("--gold-column", metavar="COLUMN", help="column of the output with the gold label")
    parser.add_argument(
        "--against",
        type=_file,
        metavar="OUTPUT2",
        help="output of another run: McNemar's test and the difference in accuracy; rows are matched by --key, or by "
        "their order",
    )
    parser.add_argument("--question", metavar="NAME", help="which question of a job with several")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap intervals (default: 0)")
    parser.add_argument(
        "--no-write",
        action="store_false",
        dest="write",
        help="only print: do not write OUTPUT/_tirazh/evaluation.json, and leave the report as it is",
    )


def run_evaluation(options: argparse.Namespace) -> int:
    """Run `tirazh evaluate`."""
    from tirazh.pipeline.gold.read import GoldSource
    from tirazh.pipeline.gold.run import evaluate_output

    source = GoldSource(file=options.gold, key=options.key, label=options.gold_label, column=options.gold_column)
    found = evaluate_output(
        options.output,
        source,
        question=options.question,
        against=options.against,
        seed=options.seed,
        endpoint_url=options.endpoint_url,
        write=options.write,
    )
    if options.json:
        console.show_facts(found, as_json=True, quiet=False)
    elif not options.quiet:
        console.say(evaluation_text(found))
        if options.write:
            console.say(f"\nreport  {found['output']}/_tirazh/report.html")
    return 0


def _file(text: str) -> str:
    """An argparse type that refuses an address with a secret, as the specs do."""
    if holds_secret(text):
        raise argparse.ArgumentTypeError(
            "must hold no password, key or signature; set the credentials in the environment"
        )
    return text
