"""The names of all files in an output directory; no other module spells them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tirazh.errors import OutputError
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, is_remote, join

OWN = "_tirazh"
SUCCESS = "_SUCCESS"
PLAN = "plan.json"
MANIFEST = "manifest.json"
REPORT = "report.html"
RECEIPTS = "receipts"
LEASES = "leases"
_PART = re.compile(r"part-(\d{5,})-of-(\d{5,})\.parquet")
# The names of temporary files that `storage/disk.py` writes beside the final ones.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """One output directory and its storage. `directory` is an absolute path or a URI."""

    storage: Storage
    directory: str

    @classmethod
    def at(cls, uri: str, storage: Storage) -> OutputFiles:
        """The output directory that a user named. Raises RequestError for an unknown URI scheme."""
        return cls(storage, full_uri(uri))

    def own(self, *names: str) -> str:
        """The URI of a file in `_tirazh/`."""
        return join(self.directory, OWN, *names)

    def part(self, name: str) -> str:
        """The URI of a part file (or of another file beside the parts)."""
        return join(self.directory, name)

    def receipt(self, part_name: str) -> str:
        """The URI of a part's receipt, which is written before the part file."""
        return self.own(RECEIPTS, receipt_name(part_name))

    @property
    def leases(self) -> str:
        """The URI of the directory of the lease: one file per epoch, the highest names the run that writes."""
        return self.own(LEASES)

    def lease_file(self, epoch: int) -> str:
        """The URI of the lease file of `epoch`."""
        return self.own(LEASES, f"{epoch:08d}.json")

    def receipts(self) -> set[str]:
        """The names of the existing receipts. Takes one listing."""
        return set(self.storage.names(self.own(RECEIPTS)))

    def parts(self) -> list[str]:
        """The names of the existing part files, of any job."""
        return [name for name in self.storage.names(self.directory) if _PART.fullmatch(name)]

    def finished(self, total: int) -> set[int]:
        """The indices of the existing parts. Takes one listing and opens no file.

        Raises OutputError for a part of a job with another number of parts.
        """
        found = set()
        for name in self.storage.names(self.directory):
            match = _PART.fullmatch(name)
            if match is None:
                continue
            if int(match[2]) != total or int(match[1]) >= total:
                raise OutputError(
                    f"{show_uri(self.part(name))} does not belong to this job, which has {total} parts; remove the file"
                )
            found.add(int(match[1]))
        return found

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

    def reopen(self) -> None:
        """Remove `_SUCCESS`; called before anything in the directory changes."""
        self.storage.remove(self.part(SUCCESS))

    def clear(self) -> None:
        """Remove all files that tirazh wrote except the lease.

        `_SUCCESS` is removed first, so that no reader takes an incomplete set of parts for all of
        them. The plan is removed after the parts: if the removal is interrupted, the remaining
        parts are still recognised as those of another job.
        """
        self.reopen()
        for name in self.parts():
            self.storage.remove(self.part(name))
        # The lease stays: the caller holds it.
        for name in self.storage.directories(self.own()) - {LEASES}:
            self.storage.remove(self.own(name), recursive=True)
        for name in self.storage.names(self.own()):
            self.storage.remove(self.own(name))

    def sweep(self) -> None:
        """Remove temporary files of killed runs.

        Only disks have them; object stores upload files whole.
        """
        for directory in () if is_remote(self.directory) else self._written_directories():
            for name in self.storage.names(directory):
                if _TEMPORARY.fullmatch(name):
                    self.storage.remove(join(directory, name))

    def _written_directories(self) -> tuple[str, ...]:
        return (self.directory, self.own(), self.own(RECEIPTS), self.leases)


def receipt_name(part_name: str) -> str:
    """`part-00017-of-00420.json` for the part file of that name."""
    return part_name.removesuffix(".parquet") + ".json"
