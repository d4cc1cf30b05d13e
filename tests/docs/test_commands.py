"""Commands and job files that documents show are accepted by the real parser."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs.planned import planned_flags, skip_while_missing
from tests.docs.texts import DOCUMENTS, fenced_blocks, name_of
from tirazh.errors import RequestError
from tirazh.jobs.cli import build_parser
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.jobs.parser import parse

TUTORIALS = sorted((REPOSITORY / "docs/tutorials").glob("*.md"))


def shown_commands() -> Iterator[tuple[str, str]]:
    """Yield (document, command line) for every line of a bash block that starts with `tirazh`."""
    for path in DOCUMENTS:
        for block in fenced_blocks(path, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip().startswith("tirazh "):
                    yield name_of(path), " ".join(line.split())


@pytest.mark.parametrize(("document", "command"), list(shown_commands()))
def test_a_command_in_a_document_parses(document: str, command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    skip_while_missing(words[0], *planned_flags(words))
    parser, by_name = build_parser()
    assert parse(parser, by_name, words).command == words[0]


def test_a_misspelt_flag_in_a_document_would_be_noticed() -> None:
    parser, by_name = build_parser()
    with pytest.raises(RequestError, match="--top-pp"):
        parse(parser, by_name, shlex.split("generate --input prompts.parquet --output out --top-pp 0.95"))


@pytest.mark.parametrize("path", TUTORIALS, ids=name_of)
def test_the_job_file_of_a_tutorial_is_a_valid_job(path: Path, tmp_path: Path) -> None:
    job, *_ = fenced_blocks(path, "yaml")
    file = tmp_path / "job.yaml"
    file.write_text(job, encoding="utf-8")
    assert spec_from_file(file).output
    assert f"# {path.stem}.yaml" in job


PARTS_OF_JOBS = [
    (path, block)
    for path in sorted((REPOSITORY / "docs").rglob("*.md"))
    for block in fenced_blocks(path, "yaml")
    if block.startswith("notify:")
]


@pytest.mark.parametrize(("path", "part"), PARTS_OF_JOBS, ids=[name_of(path) for path, _ in PARTS_OF_JOBS])
def test_a_section_of_a_job_file_may_be_added_to_a_job(path: Path, part: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"kind: generate\ninput: in\noutput: out\n{part}", encoding="utf-8")
    assert spec_from_file(file).output
