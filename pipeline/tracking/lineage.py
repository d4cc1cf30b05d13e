"""Tells OpenLineage which data a run reads and writes: an event at its begin and one at its end.

With the package openlineage-python its client sends the events, configured as everywhere. Without it they are posted
to OPENLINEAGE_URL, or appended to a file (OPENLINEAGE__TRANSPORT__TYPE=file).
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from tirazh.errors import RequestError
from tirazh.pipeline.tracking.record import Entry, RunEnd, RunStart

PRODUCER = "https://pypi.org/project/tirazh"
_SPEC = "https://openlineage.io/spec"
_SCHEMA = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_TYPES = {"success": "COMPLETE", "failure": "FAIL", "interrupted": "ABORT"}
_TIMEOUT_S = 5.0


class LineageRun:
    """The events of one run."""

    def __init__(self) -> None:
        self._id = str(uuid4())
        self._start: RunStart | None = None

    def begin(self, start: RunStart) -> None:
        self._start = start
        send(self._event("START", {}, {}))

    def progress(self, seconds: float, figures: Mapping[str, float]) -> None:
        """Events have no progress."""

    def training(self, entries: Sequence[Entry]) -> None:
        """Events have no steps."""

    def end(self, end: RunEnd) -> None:
        facets: dict[str, Any] = {}
        if end.outcome != "success":
            more = {"message": end.sentence, "programmingLanguage": "PYTHON"}
            facets["errorMessage"] = _facet("1-0-1/ErrorMessageRunFacet.json", more)
        rows = end.figures.get("rows")
        counted = {} if rows is None else {"rowCount": int(rows)}
        statistics = {"outputStatistics": _facet("1-0-2/OutputStatisticsOutputDatasetFacet.json", counted)}
        send(self._event(_TYPES[end.outcome], facets, statistics if counted else {}))

    def _event(self, kind: str, run_facets: dict[str, Any], output_facets: dict[str, Any]) -> dict[str, Any]:
        start = self._start
        assert start is not None, "a run begins before it ends"
        namespace = os.environ.get("OPENLINEAGE_NAMESPACE") or "tirazh"
        return {
            "eventType": kind,
            "eventTime": datetime.now(UTC).isoformat(),
            "run": {"runId": self._id, "facets": run_facets},
            "job": {"namespace": namespace, "name": f"{start.kind}.{start.name}", "facets": {}},
            "inputs": [dataset(uri) for uri in start.inputs],
            "outputs": [{**dataset(start.output), "outputFacets": output_facets}],
            "producer": PRODUCER,
            "schemaURL": _SCHEMA,
        }


def dataset(uri: str) -> dict[str, Any]:
    """The name of a file, a directory or a pattern, as OpenLineage names data sets."""
    if "://" not in uri:
        return {"namespace": "file", "name": os.path.abspath(os.path.expanduser(uri)), "facets": {}}
    split = urlsplit(uri)
    return {"namespace": f"{split.scheme}://{split.netloc}", "name": split.path.strip("/") or "/", "facets": {}}


def send(event: dict[str, Any]) -> None:
    """Send an event to where the environment says. Raises what the transport raises."""
    if find_spec("openlineage") is not None and find_spec("openlineage.client") is not None:
        _send_by_client(event)
    elif os.environ.get("OPENLINEAGE__TRANSPORT__TYPE") == "file":
        _append(event, os.environ.get("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH"))
    else:
        _post(event, os.environ.get("OPENLINEAGE_URL"))


def _send_by_client(event: dict[str, Any]) -> None:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState

    made = RunEvent(
        eventType=RunState[event["eventType"]],
        eventTime=event["eventTime"],
        run=Run(**event["run"]),
        job=Job(**event["job"]),
        inputs=[InputDataset(**each) for each in event["inputs"]],
        outputs=[OutputDataset(**each) for each in event["outputs"]],
        producer=event["producer"],
    )
    client = OpenLineageClient()
    client.emit(made)
    client.close(_TIMEOUT_S)


def _append(event: dict[str, Any], path: str | None) -> None:
    if not path:
        raise RequestError("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH is not set")
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(event, ensure_ascii=False) + "\n")


def _post(event: dict[str, Any], url: str | None) -> None:
    if not url:
        raise RequestError("without the package openlineage-python events go to OPENLINEAGE_URL only, which is not set")
    endpoint = os.environ.get("OPENLINEAGE_ENDPOINT") or "api/v1/lineage"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    body = json.dumps(event, ensure_ascii=False).encode()
    request = urllib.request.Request(f"{url.rstrip('/')}/{endpoint.strip('/')}", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        answer.read(1)


def _facet(path: str, values: Mapping[str, Any]) -> dict[str, Any]:
    name = path.rpartition("/")[2].removesuffix(".json")
    return {"_producer": PRODUCER, "_schemaURL": f"{_SPEC}/facets/{path}#/$defs/{name}", **values}
