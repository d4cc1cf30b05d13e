"""docs/finetune.md names only flags that exist, and has a row for every flag of the two scripts of ru-gpts."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY
from tirazh.jobs.cli import build_parser
from tirazh.jobs.flags import FORMER_TRAINING_FLAGS

TEXT = (REPOSITORY / "docs/finetune.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.*?) \| (.*) \|$", TEXT, flags=re.MULTILINE)
FLAG = re.compile(r"--([a-z][\w-]*)")


def known() -> set[str]:
    return {flag.removeprefix("--") for flag in build_parser()[1]["finetune"].flags()}


def test_the_flags_in_the_finetune_guide_exist() -> None:
    for block in re.findall(r"tirazh finetune[^`#]*", TEXT):
        shown = set(FLAG.findall(block.split("tirazh classify")[0].split("python examples")[0]))
        assert shown <= known(), shown - known()
    for there, here in ROWS:
        if there.startswith("`--"):
            assert set(FLAG.findall(here)) <= known(), here


def test_every_former_training_flag_is_in_the_finetune_guide() -> None:
    there = {flag.replace("_", "-") for row, _ in ROWS for flag in FLAG.findall(row)}
    others = {"max-seq-length", "per-device-train-batch-size", "bf16"}  # of Hugging Face
    assert {flag.removeprefix("--") for flag in FORMER_TRAINING_FLAGS} - others <= there
