"""The names of all files in an output directory; no other module spells them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tirazh.errors import InputError, OutputError
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, is_remote, join

OWN = "_tirazh"
SUCCESS = "_SUCCESS"
PLAN = "plan.json"
MANIFEST = "manifest.json"
REPORT = "report.html"
CARD = "README.md"
EVALUATION = "evaluation.json"
RESPONSES = "responses.jsonl"
FAILURE = "failure.json"
RUNS = "runs.jsonl"
HEAD = "head.json"
HEAD_FOLDER = "head"
RECEIPTS = "receipts"
STAGED = "staged"
LEASES = "leases"
STEPS = "steps"
ROUND = "round-"
DROPPED = "_dropped"
JUDGED = "judged"
SIGNATURES = "signatures"
DUPLICATES = "duplicates.parquet"
_OF_QUESTION = "evaluation-"
# `parts.part_name`. Outputs of earlier versions have parts without the digits of a plan id.
_PART = re.compile(r"part-\d{5,}-of-\d{5,}(-[0-9a-f]{8})?\.parquet")
# The names of temporary files that `storage/disk.py` writes beside the final ones.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True, slots=True)
class KeptParts:
    """The parts `names` of the output in `directory`, which a staged output of it keeps where they are."""

    directory: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """One output directory and its storage. `directory` is an absolute path or a URI.

    A staged output that continues the output above it has the parts `kept` there; they are read and never written.
    """

    storage: Storage
    directory: str
    kept: KeptParts | None = None

    @classmethod
    def at(cls, uri: str, storage: Storage) -> OutputFiles:
        """The output directory that a user named. Raises RequestError for an unknown URI scheme."""
        return cls(storage, full_uri(uri))

    def own(self, *names: str) -> str:
        """The URI of a file in `_tirazh/`."""
        return join(self.directory, OWN, *names)

    def part(self, name: str) -> str:
        """The URI of a part file (or of another file beside the parts)."""
        is_kept = self.kept is not None and name in self.kept.names
        return join(self.kept.directory if is_kept and self.kept is not None else self.directory, name)

    def receipt(self, part_name: str) -> str:
        """The URI of a part's receipt, which is written after the part file."""
        if self.kept is not None and part_name in self.kept.names:
            return OutputFiles(self.storage, self.kept.directory).receipt(part_name)
        return self.own(RECEIPTS, receipt_name(part_name))

    def signatures(self, part_name: str) -> str:
        """The URI of the side file of a part: the signatures of its rows, for `dedup`."""
        return self.own(SIGNATURES, part_name)

    def evaluation(self, question: str | None = None) -> str:
        """The URI of the evaluation of the answers, or of those to one of several questions."""
        return self.own(EVALUATION if question is None else f"{_OF_QUESTION}{question}.json")

    def evaluations(self) -> list[str]:
        """The URIs of the existing evaluations. Takes one listing."""
        names = sorted(self.storage.names(self.own()))
        return [self.own(name) for name in names if name == EVALUATION or name.startswith(_OF_QUESTION)]

    @property
    def duplicates(self) -> str:
        """The URI of the list of rows that were dropped as duplicates."""
        return self.own(DUPLICATES)

    @property
    def leases(self) -> str:
        """The URI of the directory of the lease: one file per epoch, the highest names the run that writes."""
        return self.own(LEASES)

    def lease_file(self, epoch: int) -> str:
        """The URI of the lease file of `epoch`."""
        return self.own(LEASES, f"{epoch:08d}.json")

    @property
    def staged(self) -> OutputFiles:
        """Where `--overwrite` puts the output of the new job, and `--append` new parts, until they are complete.

        It has the same files as an output. Readers do not see it, because it lies in `_tirazh/`.
        """
        return OutputFiles(self.storage, self.own(STAGED))

    def keeping(self, names: Iterable[str]) -> OutputFiles:
        """The staged output, which keeps the parts `names` of this output."""
        return OutputFiles(self.storage, self.own(STAGED), KeptParts(self.directory, frozenset(names)))

    def receipts(self) -> set[str]:
        """The names of the existing receipts. Takes one listing, with `kept` a second one."""
        own = set(self.storage.names(self.own(RECEIPTS)))
        if self.kept is None:
            return own
        kept = {receipt_name(name) for name in self.kept.names}
        return own | (OutputFiles(self.storage, self.kept.directory).receipts() & kept)

    def parts(self) -> dict[str, int]:
        """Name → size in bytes of the existing part files, of any job. Takes one listing, with `kept` a second one, and
        opens no file."""
        names = self.storage.names(self.directory)
        own = {name: size for name, size in names.items() if _PART.fullmatch(name)}
        if self.kept is None:
            return own
        there = self.storage.names(self.kept.directory)
        return {name: size for name, size in there.items() if name in self.kept.names} | own

    def is_part_name(self, name: str) -> bool:
        """Whether `name` is the name of a part file, of any job."""
        return _PART.fullmatch(name) is not None

    def foreign(self) -> list[str]:
        """The names of visible files that are not parts; readers of the directory would take them for data."""
        names = self.storage.names(self.directory)
        return sorted(name for name in names if not name.startswith(("_", ".")) and not _PART.fullmatch(name))

    def refuse_foreign(self) -> None:
        """Raise OutputError if the directory contains files that tirazh did not write; those are never removed."""
        names = self.storage.names(self.directory)
        # Without `_tirazh/` a file that is named like a part was written by another program.
        is_ours = OWN in self.storage.directories(self.directory)
        foreign = [
            name for name in names if not name.startswith((".", "_")) and not (is_ours and _PART.fullmatch(name))
        ]
        if foreign:
            raise OutputError(
                f"output {show_uri(self.directory)} contains files that tirazh did not write ({min(foreign)}); "
                "choose an empty or a new directory"
            )

    def is_complete(self) -> bool:
        """Whether `_SUCCESS` tells readers that the output is complete."""
        return SUCCESS in self.storage.names(self.directory)

    def completed_plan(self) -> str | None:
        """The id of the plan whose run wrote `_SUCCESS`, or None if there is none.

        It tells a staged output that is complete from one in which a late write of another job's run arrived.
        """
        try:
            return self.storage.read(self.part(SUCCESS)).decode(errors="replace").strip()
        except InputError:
            return None

    def temporary_files(self) -> list[str]:
        """The URIs of temporary files that killed runs left.

        Only disks have them; object stores upload files whole.
        """
        directories = () if is_remote(self.directory) else (self.directory, self.own(), self.own(RECEIPTS), self.leases)
        return [
            join(directory, name)
            for directory in directories
            for name in self.storage.names(directory)
            if _TEMPORARY.fullmatch(name)
        ]


def receipt_name(part_name: str) -> str:
    """`part-00017-of-00420-1a2b3c4d.json` for the part file of that name."""
    return part_name.removesuffix(".parquet") + ".json"
