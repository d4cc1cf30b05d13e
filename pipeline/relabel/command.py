"""The entry point of `tirazh relabel`: opens the source, resolves the request and writes the new output."""

from __future__ import annotations

from typing import Any

from tirazh.pipeline.output.leases.lease import Tell
from tirazh.pipeline.relabel.request import RelabelRequest, resolve_relabelling
from tirazh.pipeline.relabel.run import relabel
from tirazh.pipeline.relabel.source import open_source
from tirazh.pipeline.storage.filesystem import Storage


def relabel_output(
    output: str, out: str, request: RelabelRequest, *, endpoint_url: str | None = None, tell: Tell | None = None
) -> dict[str, Any]:
    """Write a new output to the directory `out` with other thresholds or a calibration, and return its manifest.

    `output` is a finished output of classify, which is only read. `tell` receives sentences about waits. Raises
    RequestError and its subclasses before anything is written, and what `run.relabel` raises.
    """
    source = open_source(output, Storage(endpoint_url))
    return relabel(source, resolve_relabelling(source, request, endpoint_url=endpoint_url), out, tell=tell)
