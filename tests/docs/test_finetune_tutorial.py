"""Every command of docs/finetune.md that needs no cluster runs, in order: its tutorial, then its reference."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.docs.test_tutorials import NEEDS_A_CLUSTER, run
from tests.docs.texts import fenced_blocks

PAGE = REPOSITORY / "docs/finetune.md"
CHAPTERS = ("## 1. Labels", "## 2. Style", "## 3. LoRA")


def sections() -> dict[str, str]:
    """Return the sections of the page by their headings, in order."""
    parts = re.split(r"^(?=## )", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part.splitlines()[0]: part for part in parts}


def commands(section: str, *, with_python: bool) -> Iterator[list[str]]:
    """Yield the arguments of Python for each command of a section, and for its Python blocks where they are wanted."""
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE):
        if language == "python":
            yield from [["-c", block]] if with_python else []
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and not any(mark in line for mark in NEEDS_A_CLUSTER):
                yield [str(REPOSITORY / words[1]), *words[2:]] if words[0] == "python" else ["-m", "tirazh", *words[1:]]


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "_tirazh/manifest.json").read_text(encoding="utf-8"))
    return found


def test_the_page_begins_with_three_chapters() -> None:
    assert tuple(sections())[1:4] == CHAPTERS


def test_the_page_has_a_command_of_every_kind() -> None:
    found = {words[1] if words[0] == "-m" else words[0] for part in sections().values() for words in
             commands(part, with_python=True)}  # fmt: skip
    assert {"tirazh", "-c", str(REPOSITORY / "examples/new_model.py")} <= found


@pytest.mark.timeout(3600)
@pytest.mark.ray
@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    """The Python blocks of the reference are run by tests/model/training/test_export.py."""
    for job in fenced_blocks(PAGE, "yaml"):
        (tmp_path / job.splitlines()[0].removeprefix("# ")).write_text(job, encoding="utf-8")
    for heading, section in sections().items():
        for arguments in commands(section, with_python=heading in CHAPTERS):
            run(arguments, tmp_path)
    trained, labelled = manifest(tmp_path / "topics"), manifest(tmp_path / "labelled")
    assert trained["evaluation"]["accuracy"] > trained["evaluation_before"]["accuracy"]
    assert labelled["accuracy"] == pytest.approx(trained["evaluation"]["accuracy"])
    assert manifest(tmp_path / "longer")["start"]["first_step"] == 16
    told = manifest(tmp_path / "tales")
    assert told["evaluation"]["perplexity"] < told["evaluation_before"]["perplexity"]
    assert pq.read_table(tmp_path / "told").num_rows == 2
    assert (tmp_path / "with-adapter/adapter/adapter_config.json").is_file()
