"""Makes attempts in rounds until every cell has enough rows that pass, or has used all of its attempts.

A round is a generate job of its own, with chosen attempts of every cell. An attempt has the number of its row in a
job with as many rows per cell, so its row is the same. What a round makes follows from the rounds before it, and a
stored plan is followed; so a run that is killed anywhere continues with the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import LeaseToken
from tirazh.pipeline.output.names import JUDGED, ROUND, SIGNATURES, OutputFiles
from tirazh.pipeline.output.plan_file import job_difference, read_plan
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.quality.dedup.duplicates import Duplicates
from tirazh.pipeline.quality.dedup.find import find_duplicates
from tirazh.pipeline.quality.dedup.side_file import SideFile
from tirazh.pipeline.spec import Accepted, GenerateSpec
from tirazh.pipeline.steps.accepted.attempts import next_attempts
from tirazh.pipeline.steps.accepted.rounds import Progress, Round, with_duplicates
from tirazh.pipeline.steps.directories import round_output
from tirazh.pipeline.steps.filtering.columns import FilterColumns
from tirazh.pipeline.steps.filtering.part import FilterConfig, read_judged
from tirazh.pipeline.steps.filtering.plan import plan_filter
from tirazh.pipeline.steps.filtering.quality import Rules
from tirazh.pipeline.steps.filtering.run import judge_parts
from tirazh.pipeline.steps.filtering.source import read_file, source_files
from tirazh.pipeline.storage.filesystem import Storage, full_uri, join, keep_trying

RunRound = Callable[[GenerateSpec, Crossing, int], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempted:
    """The rounds of a job when no attempt is left to make, with the duplicates among them and what was accepted."""

    rounds: list[Round]
    duplicates: Duplicates
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """The rounds of a generate step.

    `spec` is that of the step, `plan` that of its settings, `crossing` its values.
    `identity` is what judges the rows. `run_round` runs the
    generate job of a round, of which it gets the spec, the attempts and the number.
    """

    spec: GenerateSpec
    plan: Plan
    crossing: Crossing
    accepted: Accepted
    rules: Rules
    columns: FilterColumns
    identity: dict[str, Any]
    storage: Storage
    lease: LeaseToken
    run_round: RunRound

    def existing(self) -> list[Round]:
        """The rounds of earlier runs, each made to its end."""
        rounds: list[Round] = []
        while (crossing := self._stored(len(rounds) + 1)) is not None:
            rounds.append(self._make(rounds, crossing))
        return rounds

    def complete(self, rounds: list[Round]) -> Attempted:
        """Make the rounds that are missing after `rounds`."""
        while True:
            duplicates, progress = self._judge(rounds)
            counts = next_attempts(
                progress.accepted,
                progress.attempted,
                wanted=self.accepted.rows,
                most=self.accepted.rows * self.accepted.max_attempts,
            )
            if not counts.any():
                return Attempted(rounds=rounds, duplicates=duplicates, progress=progress)
            ranges = np.stack([progress.attempted, counts], axis=1)
            rounds = [*rounds, self._make(rounds, self.crossing.with_attempts(ranges))]

    def remove_judged(self, rounds: Sequence[Round]) -> None:
        """Remove the intermediate files of all rounds."""
        for each in rounds:
            output = GuardedOutput(each.output, self.lease)
            for name in (JUDGED, SIGNATURES):
                if name in keep_trying(lambda: each.output.storage.directories(each.output.own())):  # noqa: B023
                    output.remove(each.output.own(name), recursive=True)

    def remove_other_rounds(self, rounds: Sequence[Round]) -> None:
        """Remove the rounds of another job, which --overwrite has replaced."""
        known = {made.output.directory.rpartition("/")[2] for made in rounds}
        directory = full_uri(self.spec.output)
        for name in sorted(keep_trying(lambda: self.storage.directories(directory)) - known):
            if name.startswith(ROUND):
                GuardedOutput(rounds[0].output, self.lease).remove(join(directory, name), recursive=True)

    def _stored(self, number: int) -> Crossing | None:
        """The attempts of a round that was started; None if there is none of this job."""
        stored = read_plan(OutputFiles(self.storage, full_uri(round_output(self.spec.output, number))))
        if stored is None or job_difference(stored, self.plan) is not None:
            return None
        return stored.crossing

    def _make(self, before: Sequence[Round], crossing: Crossing) -> Round:
        number = len(before) + 1
        directory = round_output(self.spec.output, number)
        manifest = self.run_round(replace(self.spec, output=directory), crossing, number)
        output = OutputFiles(self.storage, full_uri(directory))
        first_part = before[-1].first_part + len(before[-1].judged.parts) if before else 0
        return make_round(crossing, manifest, output, first_part=first_part, identity=self.identity)

    def _judge(self, rounds: Sequence[Round]) -> tuple[Duplicates, Progress]:
        """Judge the rows of all rounds, find duplicates among them, and count what is accepted."""
        for each in rounds:
            judge_parts(each.judged, self._config(each))
        duplicates = Duplicates({})
        if self.rules.dedup is not None:
            side_files = [
                SideFile(each.first_part + part.index, each.output.signatures(part.name))
                for each in rounds
                for part in each.judged.parts
            ]
            duplicates = find_duplicates(side_files, self.rules.dedup, storage=self.storage, against=self.rules.against)
        reasons = [self._reasons(each, duplicates) for each in rounds]
        return duplicates, Progress.of(rounds, reasons, self.crossing.num_cells)

    def _reasons(self, made: Round, duplicates: Duplicates) -> list[list[str]]:
        config = self._config(made)
        parts = [read_judged(made.output, part.name, config).reasons for part in made.judged.parts]
        return with_duplicates(parts, duplicates, made.first_part)

    def _config(self, made: Round) -> FilterConfig:
        return FilterConfig(output=made.output, columns=self.columns, rules=self.rules, lease=self.lease)


def make_round(
    crossing: Crossing, manifest: dict[str, Any], output: OutputFiles, *, first_part: int, identity: dict[str, Any]
) -> Round:
    """The round of a finished generate job, whose output is `output`."""
    files = source_files(manifest, output)
    columns = read_file(files[0].file, output.storage).schema
    judged = plan_filter(identity, columns, manifest, files)
    return Round(crossing=crossing, manifest=manifest, output=output, judged=judged, first_part=first_part)
