"""Flags that these commands share: addresses, and where gold labels are."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tirazh.pipeline.storage.secrets import holds_secret

if TYPE_CHECKING:
    from tirazh.pipeline.gold.read import GoldSource


def add_gold_flags(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare the flags that say where gold labels are; `what` is the default of the group."""
    gold = parser.add_argument_group("gold labels", what)
    gold.add_argument("--gold", type=address, metavar="FILE", help="Parquet, CSV or JSONL file with gold labels")
    gold.add_argument("--key", metavar="COLUMN", help="column of the output and of FILE that names a row")
    gold.add_argument("--gold-label", metavar="COLUMN", help="column of FILE with the gold label (default: label)")
    gold.add_argument("--gold-column", metavar="COLUMN", help="column of the output with the gold label")


def gold_of(options: argparse.Namespace) -> GoldSource:
    """The source of gold labels that the flags name."""
    from tirazh.pipeline.gold.read import GoldSource

    return GoldSource(file=options.gold, key=options.key, label=options.gold_label, column=options.gold_column)


def address(text: str) -> str:
    """An argparse type that refuses an address with a secret, as the specs do."""
    if holds_secret(text):
        raise argparse.ArgumentTypeError(
            "must hold no password, key or signature; set the credentials in the environment"
        )
    return text
