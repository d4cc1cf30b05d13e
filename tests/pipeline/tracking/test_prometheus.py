"""Metrics for Prometheus: a scrape of Ray's exporter shows the run, and after its end the values of the manifest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.pipeline.tracking.scraped_run import BAD_ROWS, ROWS
from tirazh.pipeline.tracking.prometheus import METRICS, MetricsExport, labelling, labels_of

BOARD = json.loads((REPOSITORY / "deploy/grafana.json").read_text(encoding="utf-8"))
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
EXPORTED = (
    "ray_tirazh_rows_planned",
    "ray_tirazh_rows_done",
    "ray_tirazh_rows_safe",
    "ray_tirazh_error_rows",
    "ray_tirazh_safe_prompt_tokens",
    "ray_tirazh_safe_completion_tokens",
    "ray_tirazh_error_budget_used_ratio",
    "ray_tirazh_parts_planned",
    "ray_tirazh_parts_safe",
    "ray_tirazh_replica_deaths",
    "ray_tirazh_replicas_wanted",
    "ray_tirazh_replicas",
    "ray_tirazh_parts_in_flight",
    "ray_tirazh_parts_waiting",
    "ray_tirazh_slots",
    "ray_tirazh_busy_slots",
    "ray_tirazh_kv_cache_bytes",
    "ray_tirazh_remaining_seconds",
    "ray_tirazh_requests_total",
    "ray_tirazh_prompt_tokens_total",
    "ray_tirazh_completion_tokens_total",
    "ray_tirazh_steps_total",
    "ray_tirazh_step_seconds_total",
)
_NAME = re.compile(r"\b(ray_tirazh_\w+)")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of a job on a cluster, in which one replica dies."""
    folder = tmp_path_factory.mktemp("scraped")
    program = [sys.executable, "-m", "tests.pipeline.tracking.scraped_run", str(folder)]
    prometheus = shutil.which("prometheus")
    command = [*program, prometheus] if prometheus else program
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.ray
@pytest.mark.slow
def test_after_the_end_of_a_job_its_metrics_are_the_values_of_its_manifest(scraped: dict[str, Any]) -> None:
    end, manifest = scraped["end"], scraped["manifest"]
    assert end["tirazh_rows_safe"] == end["tirazh_rows_done"] == end["tirazh_rows_planned"] == manifest["rows"] == ROWS
    assert end["tirazh_error_rows"] == manifest["errors"] == BAD_ROWS
    assert end["tirazh_error_budget_used_ratio"] == pytest.approx(BAD_ROWS / (0.2 * ROWS))
    assert end["tirazh_safe_prompt_tokens"] == manifest["prompt_tokens"] > 0
    assert end["tirazh_safe_completion_tokens"] == manifest["completion_tokens"] > 0
    assert end["tirazh_replica_deaths"] == manifest["replica_deaths"] == 1
    assert end["tirazh_parts_safe"] == end["tirazh_parts_planned"] == manifest["num_parts"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_has_ended_holds_no_slots(scraped: dict[str, Any]) -> None:
    live = ("tirazh_replicas", "tirazh_busy_slots", "tirazh_slots", "tirazh_parts_in_flight", "tirazh_kv_cache_bytes")
    assert {scraped["end"][name] for name in live} == {0.0}


@pytest.mark.ray
@pytest.mark.slow
def test_a_scrape_during_a_job_shows_its_rows_and_replicas(scraped: dict[str, Any]) -> None:
    during = [values for values in scraped["during"] if values.get("tirazh_replicas")]
    assert during, scraped["during"]
    assert max(values["tirazh_rows_done"] for values in during) > 0
    assert max(values["tirazh_slots"] for values in during) > 0
    assert max(values["tirazh_parts_in_flight"] for values in during) > 0


@pytest.mark.ray
@pytest.mark.slow
def test_every_query_of_the_dashboard_has_series_in_prometheus(scraped: dict[str, Any]) -> None:
    if not scraped["queries"]:
        pytest.skip("needs the program `prometheus`: apt-get install prometheus")
    assert {query: count for query, count in scraped["queries"].items() if not count} == {}


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_the_dashboard_names_metrics_that_exist(query: str) -> None:
    names = _NAME.findall(query)
    assert names
    assert {name.removeprefix("ray_") for name in names} <= METRICS.keys()
    assert query.count("{") == query.count('{output=~"$output"}') == len(names)


def test_the_names_of_metrics_stay_as_they_are() -> None:
    """Dashboards and alerts of users rely on them."""
    assert tuple(f"ray_{name}" for name in METRICS) == EXPORTED


def test_every_metric_is_on_the_dashboard_and_in_the_guide() -> None:
    shown = {name.removeprefix("ray_") for query in QUERIES for name in _NAME.findall(query)}
    assert shown == METRICS.keys()
    guide = (REPOSITORY / "docs/monitoring.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `ray_(tirazh_\w+)`", guide, re.MULTILINE)) == METRICS.keys()


def test_the_steps_of_a_job_have_its_output_and_their_names() -> None:
    with labelling("s3://bucket/nights/night-23/", "body"), labelling("s3://bucket/inner", "examples"):
        labels = labels_of("s3://bucket/nights/night-23/_tirazh/steps/body", "generate")
    assert labels == {"job": "night-23", "output": "s3://bucket/nights/night-23", "kind": "generate", "step": "body"}
    assert labels_of("/data/out", "classify") == {"job": "out", "output": "/data/out", "kind": "classify", "step": ""}


def test_an_address_with_a_login_is_no_label() -> None:
    assert "secret" not in str(labels_of("s3://user:secret@bucket/night", "classify"))


def test_without_ray_nothing_is_published_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    export = MetricsExport(labels_of("/data/out", "classify"))
    export.publish({"tirazh_rows_done": 1}, {"tirazh_requests_total": 1})
    export.end()


def test_counters_grow_by_what_is_new_and_never_fall() -> None:
    class Recorded:
        def __init__(self) -> None:
            self.values: list[tuple[float, str]] = []

        def inc(self, value: float, tags: dict[str, str]) -> None:
            self.values.append((value, tags.get("phase", "")))

    recorded = Recorded()
    export = MetricsExport({"job": "night"})
    export._metrics = {"tirazh_steps_total": recorded}
    for prefill, decode in ((2, 0), (2, 5), (1, 7)):
        export.publish({}, {"tirazh_steps_total": {"prefill": prefill, "decode": decode}})
    assert recorded.values == [(2, "prefill"), (5, "decode"), (2, "decode")]
