"""The error budget of a job: how many of its rows may have an error (`--max-error-rate`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tirazh.errors import JobError

# A job is stopped early only after so many rows, so that a few bad ones at the beginning do not stop it.
MIN_ANSWERED = 1_000
# The errors so far may exceed their expected number by three standard deviations (of a Poisson
# distribution): chance alone explains more in one of 700 cases.
_DEVIATIONS = 3.0


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """At most `max_error_rate` of the `rows` of the job may have an error, over all runs of the job."""

    max_error_rate: float
    rows: int

    def used(self, errors: int) -> float:
        """The share of the budget that is used; above 1 it is exceeded."""
        allowed = self.max_error_rate * self.rows
        return errors / allowed if allowed > 0 else float(errors)

    def check(self, *, errors: int, answered: int) -> None:
        """Raise JobError if the errors of the `answered` rows exceed the budget, or certainly will.

        Both numbers include the parts of earlier runs. The job is stopped early if at least `MIN_ANSWERED` rows
        are answered and more of them have an error than the rate and chance explain.
        """
        expected = self.max_error_rate * answered
        if errors > self.max_error_rate * self.rows:
            found = f"{errors:,} of {answered:,} rows have errors, more than --max-error-rate {self.max_error_rate:g}"
            found += f" allows for the {self.rows:,} rows of the job"
        elif answered >= MIN_ANSWERED and errors > expected + _DEVIATIONS * math.sqrt(expected):
            found = f"{errors:,} of the first {answered:,} rows have errors, clearly more than --max-error-rate"
            found += f" {self.max_error_rate:g} of them, so the job was stopped before its {self.rows:,} rows were done"
        else:
            return
        raise JobError(
            f"{found}; finished parts are kept, and their column `error` has the reasons: correct the input, or run "
            "the same command with a higher --max-error-rate to continue"
        )
