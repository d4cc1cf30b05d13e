"""A failure to start Ray is reported in one sentence, whatever exception Ray raises."""

from __future__ import annotations

import pytest
import ray

from tirazh.errors import JobError, RequestError
from tirazh.pipeline.execution.ray_session import ray_cluster, ray_session
from tirazh.pipeline.spec import GenerateSpec

SPEC = GenerateSpec(input=("a",), output="b")


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup. This could happen because ...\nmore"),
        RuntimeError("Failed to connect to GCS.\nmore"),
        ValueError("no"),
    ],
    ids=["a bare exception", "a runtime error", "a value error"],
)
def test_a_failure_to_start_ray_is_one_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", _raising(error))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(JobError, match=r"Ray could not be started on this machine( \(3 tries\))?: ") as caught,
        ray_session(SPEC),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_an_unexpected_exception_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", _raising(KeyError("x")))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(KeyError), ray_session(SPEC):
        pass


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_another_address_than_that_of_the_connected_cluster_is_refused() -> None:
    connected = ray.get_runtime_context().gcs_address
    with ray_cluster(connected, extra_cpus=1), ray_cluster("auto", extra_cpus=1):
        pass
    with (
        pytest.raises(RequestError, match=f"--address elsewhere:6379: this process already uses .* at {connected}"),
        ray_cluster("elsewhere:6379", extra_cpus=1),
    ):
        pass
    assert ray.is_initialized()


def _raising(error: Exception) -> object:
    def init(**settings: object) -> None:
        raise error

    return init
