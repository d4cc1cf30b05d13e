"""Tells the receivers about the end of one run, once, whatever ends it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tirazh.pipeline.notify.deliver import Delivery, deliver
from tirazh.pipeline.notify.message import FAILURE, RunMessage, outcome_of
from tirazh.pipeline.notify.settings import Notification
from tirazh.pipeline.storage.errors import show_uri

_READ_TIMEOUT_S = 1.5


@dataclass(slots=True)
class _Read:
    """A value that is read in the background: the storage may not answer."""

    thread: threading.Thread | None = None
    value: Any = None

    def start(self, read: Any) -> None:
        def run() -> None:
            self.value = read()

        self.thread = threading.Thread(target=run, name="tirazh-notify-read", daemon=True)
        self.thread.start()

    def get(self) -> Any:
        """The value, or None if it does not arrive in time."""
        if self.thread is not None:
            self.thread.join(_READ_TIMEOUT_S)
        return self.value


@dataclass(slots=True, eq=False)
class RunNotifier:
    """Knows the receivers of a run. `output` is its directory as the user named it.

    `figures` are fields of the message that are known so far, such as `rows`; whoever runs the job sets them.
    """

    notifications: Sequence[Notification]
    kind: str
    output: str
    endpoint_url: str | None = None
    begin: datetime = field(default_factory=lambda: datetime.now(UTC))
    figures: dict[str, Any] = field(default_factory=dict)
    _previous: _Read = field(default_factory=_Read)
    _delivery: Delivery | None = None

    def look_back(self) -> None:
        """Begin to read how the last run of the output ended, if a receiver asks for changes.

        Called before the run writes anything.
        """
        from tirazh.pipeline.notify.run_files import previous_outcome

        if self.output and any("change" in each.on for each in self.notifications):
            self._previous.start(lambda: previous_outcome(self.output, self.endpoint_url))

    def end(self, exit_code: int, sentence: str) -> None:
        """Begin to tell that the run has ended. Returns at once. Only the first call does anything."""
        if self._delivery is not None:
            return
        outcome = outcome_of(exit_code)
        previous = self._previous.get() if any("change" in each.on for each in self.notifications) else None
        wanted = [each for each in self.notifications if each.wants(outcome, previous)]
        end = datetime.now(UTC)
        self._delivery = deliver(wanted, lambda: self._message(outcome, exit_code, sentence, end))

    def wait(self) -> list[str]:
        """Wait a few seconds at most until all are told. Returns a sentence about each who is not."""
        return self._delivery.wait() if self._delivery is not None else []

    def _message(self, outcome: str, exit_code: int, sentence: str, end: datetime) -> RunMessage:
        figures = dict(self.figures)
        if outcome == FAILURE and exit_code != 2 and self.output:
            figures |= self._left_by_failure()
        return RunMessage(
            kind=self.kind,
            output=show_uri(self.output),
            outcome=outcome,
            exit_code=exit_code,
            sentence=sentence,
            begin=self.begin.isoformat(timespec="seconds"),
            end=end.isoformat(timespec="seconds"),
            **figures,
        )

    def _left_by_failure(self) -> dict[str, Any]:
        from tirazh.pipeline.notify.run_files import facts_of_failure

        read = _Read()
        read.start(lambda: facts_of_failure(self.output, self.endpoint_url, since=self.begin))
        return dict(read.get() or {})
