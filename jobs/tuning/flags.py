"""The flags of `tirazh tune`."""

from __future__ import annotations

import argparse

from tirazh.jobs.flags import one_of
from tirazh.pipeline.tuning.settings import DEFAULT_ROWS, DEFAULT_TOKENS, METRICS


def add_tune_flags(parser: argparse.ArgumentParser) -> None:
    """Add the job file and the flags."""
    parser.add_argument("job", metavar="JOB.YAML", help="job file of kind classify")
    parser.add_argument(
        "--gold",
        required=True,
        metavar="FILE",
        help="labelled rows: Parquet, JSONL or CSV, with the columns of the prompts",
    )
    parser.add_argument(
        "--gold-label",
        metavar="COLUMN",
        help="column of the labels in --gold (default: the job's gold_column, else label)",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="BEST.YAML",
        help="job file to write; its examples, calibration and table lie beside it",
    )
    parser.add_argument(
        "--token-budget",
        type=int,
        metavar="N",
        help=f"the most tokens that the model may read (default: {DEFAULT_TOKENS:,})",
    )
    parser.add_argument(
        "--metric", type=one_of(METRICS), metavar="|".join(METRICS), help="what is compared (default: accuracy)"
    )
    parser.add_argument(
        "--rows", type=int, metavar="N", help=f"the most labelled rows that are used (default: {DEFAULT_ROWS:,})"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="random seed of the split of the labelled rows (default: 0)"
    )
    parser.add_argument(
        "--search",
        metavar="YAML",
        help="what is tried, as {template, shots, shot_selection, scoring, calibrate: lists}: YAML, or a file "
        "(default: the job's search, else a space of usual values)",
    )
    parser.add_argument("--overwrite", action="store_true", default=None, help="replace the files of an earlier search")
