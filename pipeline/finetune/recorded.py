"""Records the run of a training in the history of its output, `_tirazh/runs.jsonl`, as jobs over rows are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tirazh.pipeline.history.recorder import recording
from tirazh.pipeline.output.leases.lease import Lease
from tirazh.pipeline.output.names import OutputFiles

KIND = "finetune"


@contextmanager
def recorded(files: OutputFiles, lease: Lease, training: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Inside the block the run is recorded; so is how it ends. Yields what is called with the manifest at a good end.

    Its rows are those of the training data, its errors those that were skipped, its tokens those that were trained on.
    """
    with recording(files, lease, kind=KIND) as history:
        history.begin(training)

        def finish(manifest: Mapping[str, Any]) -> None:
            history.deaths = int(manifest["worker_deaths"])
            history.seconds_work = float(manifest["seconds"])
            history.finish(
                {
                    "plan_id": training,
                    "rows": manifest["rows"],
                    "errors": manifest["skipped"],
                    "prompt_tokens": manifest["trained_tokens"],
                }
            )

        yield finish
