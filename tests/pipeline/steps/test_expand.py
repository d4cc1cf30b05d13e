"""The steps of a job, and settings that only jobs of one step have."""

from __future__ import annotations

import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.spec import GenerateSpec, Step, StepsSpec
from tirazh.pipeline.steps.expand import expand, steps_of


@pytest.mark.parametrize("setting", ["append", "retry_failed"])
def test_jobs_of_several_steps_have_no_rows_added_or_answered_again(setting: str) -> None:
    spec = GenerateSpec(input=("in",), output="out", **{setting: True})  # type: ignore[arg-type]
    assert steps_of(spec) is None
    with pytest.raises(RequestError, match="are for jobs of one step, and this job has several"):
        steps_of(GenerateSpec(input=("in",), output="out", dedup={"exact": True}, **{setting: True}))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="are for jobs of one step"):
        expand(StepsSpec(output="out", steps=(Step("first", spec), Step("second", spec))))
