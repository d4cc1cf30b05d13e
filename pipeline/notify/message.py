"""What is told about a run that has ended."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass
from typing import Any

SUCCESS, FAILURE, INTERRUPTED = "success", "failure", "interrupted"
_SIGNALS = (130, 143)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMessage:
    """A run that has ended. Figures are None where they are not known; times are UTC in ISO format.

    `sentence` is what the command line printed: one line without secrets. `rows` are those in written parts, of all
    runs of the job together, `rows_total` those of the whole job. `report` is the address of the page about the run.
    """

    kind: str
    output: str
    outcome: str
    exit_code: int
    sentence: str
    rows: int | None = None
    rows_total: int | None = None
    errors: int | None = None
    replica_deaths: int | None = None
    begin: str
    end: str
    report: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether the run ended as asked for."""
        return self.outcome == SUCCESS

    @property
    def text(self) -> str:
        """The message as one line for a person."""
        about = f"{self.kind} {self.output}".strip()
        return f"tirazh {about}: {self.outcome} (exit code {self.exit_code}): {self.sentence}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, with `text` and the name of this machine."""
        return {"text": self.text, **asdict(self), "host": socket.gethostname()}


def outcome_of(exit_code: int) -> str:
    """The outcome of a command with this exit code."""
    if exit_code == 0:
        return SUCCESS
    return INTERRUPTED if exit_code in _SIGNALS else FAILURE
