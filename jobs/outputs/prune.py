"""The command `tirazh prune`: removes old outputs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from tirazh.jobs import console
from tirazh.jobs.interrupts import interruptible
from tirazh.jobs.outputs.gold_flags import address
from tirazh.jobs.outputs.history_text import pruned_text


def add_prune_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tirazh prune`, besides those of every command."""
    parser.add_argument("directory", type=address, metavar="DIR", help="directory that holds the outputs")
    parser.add_argument(
        "--keep", required=True, metavar="AGE", help="keep outputs whose last success is younger than 30d, 12w, ..."
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    parser.add_argument("--endpoint-url", type=address, help="URL of an S3-compatible server or an Azure emulator")


def run_prune(options: argparse.Namespace) -> int:
    """Run `tirazh prune`. Each output is printed when it is done; with --json as one line."""
    from tirazh.pipeline.history.ages import parse_duration
    from tirazh.pipeline.history.prune import prune

    keep_s = parse_duration(options.keep, flag="--keep")
    removed = kept = 0
    with interruptible(lambda: "interrupted; run the same command again to go on"):
        for found in prune(
            options.directory, keep_s=keep_s, dry_run=options.dry_run, endpoint_url=options.endpoint_url
        ):
            removed, kept = removed + found.removed, kept + (not found.removed)
            if options.json:
                console.say(json.dumps(asdict(found), ensure_ascii=not console.is_unicode()))
            elif not options.quiet:
                console.say(pruned_text(found, dry_run=options.dry_run))
    if not options.json and not options.quiet:
        console.say(f"{removed} {'to remove' if options.dry_run else 'removed'}, {kept} kept")
    return 0
