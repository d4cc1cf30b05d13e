"""Records a run in MLflow.

Where runs go is set as for every program of MLflow: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.pipeline.tracking.record import Entry, RunEnd, RunStart, figures_of_entry

EXPERIMENT = "tirazh"
_STATUS = {"success": "FINISHED", "failure": "FAILED", "interrupted": "KILLED"}
_BATCH = 100  # parameters in a request; MLflow takes no more
_METRICS = 1_000  # metrics in a request


class MlflowRun:
    """A run of an experiment."""

    def __init__(self) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient()
        self._id = ""

    def begin(self, start: RunStart) -> None:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(name)
        tags = {"tirazh.kind": start.kind, "tirazh.output": start.output}
        self._id = self._client.create_run(experiment, run_name=start.name, tags=tags).info.run_id
        parameters = [Param(name, value) for name, value in start.parameters.items()]
        for first in range(0, len(parameters), _BATCH):
            self._client.log_batch(self._id, params=parameters[first : first + _BATCH])

    def progress(self, seconds: float, figures: Mapping[str, float]) -> None:
        self._log({f"progress.{name}": value for name, value in figures.items()}, step=round(seconds))

    def training(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, entry["step"])
            for entry in entries
            for name, value in figures_of_entry(entry).items()
        ]
        for first in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + _METRICS])

    def end(self, end: RunEnd) -> None:
        code = {} if end.exit_code is None else {"exit_code": float(end.exit_code)}
        self._log({**end.figures, **code}, step=0)
        if end.sentence:
            self._client.set_tag(self._id, "tirazh.sentence", end.sentence)
        self._client.set_terminated(self._id, _STATUS[end.outcome])

    def _log(self, figures: Mapping[str, float], *, step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in figures.items()])
