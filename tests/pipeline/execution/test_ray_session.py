"""A failure to start Ray is reported in one sentence, whatever exception Ray raises."""

from __future__ import annotations

import pytest
import ray

from tirazh.errors import JobError
from tirazh.pipeline.execution.ray_session import ray_session
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
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(JobError, match="Ray could not be started on this machine: ") as caught, ray_session(SPEC):
        pass
    assert "\n" not in str(caught.value)


def test_an_unexpected_exception_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", _raising(KeyError("x")))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(KeyError), ray_session(SPEC):
        pass


def _raising(error: Exception) -> object:
    def init(**settings: object) -> None:
        raise error

    return init
