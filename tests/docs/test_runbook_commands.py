"""Every `tirazh` command of the runbook exists; those with arguments run on a real cluster and a real output."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs.planned import missing, planned_flags
from tests.docs.test_cluster_commands import job_id_in
from tests.docs.texts import fenced_blocks
from tests.jobs.clusters import ray_head
from tirazh.jobs.cli import build_parser

RUNBOOK = REPOSITORY / "docs/runbook.md"
ON_A_CLUSTER = ("submit", "status", "logs", "stop", "resume")


def commands() -> list[str]:
    """Return the commands of the runbook, each once, in an order in which each finds what it needs."""
    text = re.sub(r"^```.*?^```", "", RUNBOOK.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in fenced_blocks(RUNBOOK, "bash") for line in block.splitlines()]
    found = [*lines, *(quoted.replace("\\|", "|") for quoted in re.findall(r"`(tirazh [^`]+)`", text))]
    unique = dict.fromkeys(" ".join(shlex.split(line, comments=True)) for line in found if line.startswith("tirazh "))
    return sorted(unique, key=lambda line: "stop" in line.split())


def with_arguments() -> Iterator[str]:
    """Yield the commands that can be run: those with more than their name."""
    for line in commands():
        words = line.split()
        if len(words) > 2 and "HOST" not in line:
            yield line


def test_a_command_of_the_runbook_exists() -> None:
    _, by_name = build_parser()
    for line in commands():
        words = line.split()[1:]
        assert words[0] in by_name or missing(*words[:1]), line
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        known = set(by_name[words[0]].flags()) if words[0] in by_name else flags
        assert flags - known - set(planned_flags(words)) == set(), line


@pytest.mark.timeout(1800)
@pytest.mark.ray
@pytest.mark.slow
def test_the_commands_of_the_runbook_run(tmp_path: Path) -> None:
    job = "kind: classify\ninput: {input}\noutput: {output}\nlabels: [sport, economics]\nlimit: 6\nprefix: new_\n"
    output = tmp_path / "labelled"
    (tmp_path / "job.yaml").write_text(job.format(input=REPOSITORY / "jobs/demo_data/news.jsonl", output=output))
    with ray_head(num_cpus=2) as head:
        submitted = head.tirazh("submit", str(tmp_path / "job.yaml"), "--follow")
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        newer = shutil.copytree(output, tmp_path / "newer")
        places = {"OUTPUT": str(output), "NEWER": str(newer), "job.yaml": str(tmp_path / "job.yaml")}
        places |= {"ID": job_id_in(submitted.stdout), "http://head:8265": head.address}
        left_out = []
        for line in with_arguments():
            words = [places.get(word, word) for word in shlex.split(line)[1:]]
            if lacking := missing(words[0], *planned_flags(words)):
                left_out += lacking
                continue
            done = run(words, head.environment, head.address, tmp_path)
            assert done.returncode == 0, f"{line}: {done.stderr}"
    if left_out:
        pytest.skip(f"all other commands ran; not in this version: {', '.join(left_out)}")


def run(words: list[str], environment: dict[str, str], address: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader of the runbook would: with the address of the cluster, if it needs one."""

    needs_address = words[0] in ON_A_CLUSTER and "--address" not in words and "--max-age" not in words
    command = [sys.executable, "-m", "tirazh", *words, *(["--address", address] if needs_address else [])]
    variables = environment | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
