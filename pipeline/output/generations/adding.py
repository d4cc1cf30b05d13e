"""The settings of `--append` and `--retry-failed`, and the requests that cannot be met."""

from __future__ import annotations

from dataclasses import dataclass

from tirazh.errors import RequestError
from tirazh.pipeline.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Adding:
    """That files may be added to a complete output; `key` is the column that identifies a row, None without one."""

    key: str | None = None

    @classmethod
    def of(cls, spec: JobSpec) -> Adding | None:
        """That of a job; None for one without `--append`."""
        return cls(spec.key) if spec.append else None


def check_adding(spec: JobSpec) -> None:
    """Raise RequestError for settings that contradict each other."""
    if spec.key is not None and not spec.append:
        raise RequestError("--key is for --append: give both, or leave --key out")
    chosen = [name for name, is_given in (("--append", spec.append), ("--retry-failed", spec.retry_failed)) if is_given]
    if chosen and spec.overwrite:
        raise RequestError(
            f"{chosen[0]} keeps the output and --overwrite replaces it, so they cannot be used together; leave one out"
        )
    if spec.append and spec.limit is not None:
        raise RequestError(
            "--append and --limit cannot be used together: it would be unclear which of the new rows are within the "
            "limit; leave --limit out, or write a file of the rows that are wanted"
        )
    vary = getattr(spec, "vary", None)
    if spec.append and vary is not None and not spec.input:
        raise RequestError("--append adds files of the input, and this job has none: its rows are those of --vary")
    if spec.key is not None and vary is not None:
        raise RequestError("--key cannot be used with --vary, which makes many rows of one; leave one of them out")
