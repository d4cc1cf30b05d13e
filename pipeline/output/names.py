"""Every name in an output directory, and which of them are ours. Nothing else spells these names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tirazh.errors import OutputError
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote, join

OWN = "_tirazh"
SUCCESS = "_SUCCESS"
PLAN = "plan.json"
MANIFEST = "manifest.json"
REPORT = "report.html"
RECEIPTS = "receipts"
LEASE = "lease.json"
_PART = re.compile(r"part-(\d{5,})-of-(\d{5,})\.parquet")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """One output directory and the storage it lies in."""

    storage: Storage
    directory: str

    def own(self, *names: str) -> str:
        """URI of a file in `_tirazh/`."""
        return join(self.directory, OWN, *names)

    def part(self, name: str) -> str:
        return join(self.directory, name)

    def receipt(self, part_name: str) -> str:
        """URI of what is known of a part's file; written before the file itself."""
        return self.own(RECEIPTS, receipt_name(part_name))

    @property
    def lease(self) -> str:
        """URI of the file that says who writes here at present."""
        return self.own(LEASE)

    def receipts(self) -> set[str]:
        """Names of the receipts that are there: one listing."""
        return set(self.storage.names(self.own(RECEIPTS)))

    def parts(self) -> list[str]:
        """Names of the part files that are there, of whichever job."""
        return [name for name in self.storage.names(self.directory) if _PART.fullmatch(name)]

    def finished(self, total: int) -> set[int]:
        """Indices of the parts that are there: one listing, no file is opened. Raises OutputError for a part of
        another cut of the input."""
        found = set()
        for name in self.storage.names(self.directory):
            match = _PART.fullmatch(name)
            if match is None:
                continue
            if int(match[2]) != total or int(match[1]) >= total:
                raise OutputError(
                    f"{show_uri(self.part(name))} does not belong to this job of {total} parts; remove it"
                )
            found.add(int(match[1]))
        return found

    def foreign(self) -> list[str]:
        """Names of files that readers of the directory would take for data and that are not parts."""
        names = self.storage.names(self.directory)
        return sorted(name for name in names if not name.startswith(("_", ".")) and not _PART.fullmatch(name))

    def refuse_foreign(self) -> None:
        """Raise OutputError when the directory holds files that no job of ours wrote: they are never removed."""
        names = self.storage.names(self.directory)
        ours = OWN in self.storage.directories(self.directory)
        strange = [name for name in names if not name.startswith((".", "_")) and not (ours and _PART.fullmatch(name))]
        if strange:
            raise OutputError(
                f"output {show_uri(self.directory)} holds files that tirazh did not write ({min(strange)}); "
                "choose an empty or a new directory"
            )

    def is_complete(self) -> bool:
        """Whether readers are told that everything is there."""
        return SUCCESS in self.storage.names(self.directory)

    def reopen(self) -> None:
        """Take `_SUCCESS` away before anything that it speaks of changes."""
        self.storage.remove(self.part(SUCCESS))

    def clear(self) -> None:
        """Remove everything of ours but the lease. `_SUCCESS` goes first, so that no reader takes a part of the parts
        for all; the plan after the parts, so that those of a removal that was cut off are still seen as another job's.
        """
        self.reopen()
        for name in self.parts():
            self.storage.remove(self.part(name))
        for name in self.storage.directories(self.own()):
            self.storage.remove(self.own(name), recursive=True)
        left = set(self.storage.names(self.own()))
        for name in left - {LEASE}:
            self.storage.remove(self.own(name))
        if LEASE not in left:
            self.storage.remove(self.own(), recursive=True)

    def sweep(self) -> None:
        """Remove half-written files that a killed run left behind (disks only; elsewhere there are none)."""
        for directory in () if is_remote(self.directory) else (self.directory, self.own(), self.own(RECEIPTS)):
            for name in self.storage.names(directory):
                if _TEMPORARY.fullmatch(name):
                    self.storage.remove(join(directory, name))


def receipt_name(part_name: str) -> str:
    return part_name.removesuffix(".parquet") + ".json"
