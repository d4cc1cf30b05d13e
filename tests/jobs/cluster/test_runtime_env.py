"""The section `runtime_env:` of a job file, and --image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tirazh.errors import RequestError
from tirazh.jobs.cluster.runtime_env import read_runtime_env, without_values


def test_a_mapping_is_passed_on_as_ray_takes_it() -> None:
    given = {
        "pip": ["sentencepiece"],
        "env_vars": {"HF_TOKEN": "hunter2", "WORKERS": 4},
        "config": {"eager_install": True},
    }
    assert read_runtime_env(given) == given | {"env_vars": {"HF_TOKEN": "hunter2", "WORKERS": "4"}}
    assert read_runtime_env(None) == {}
    assert without_values(read_runtime_env(given))["env_vars"] == {"HF_TOKEN": None, "WORKERS": None}


def test_a_file_of_requirements_lies_beside_the_job_file(tmp_path: Path) -> None:
    found = read_runtime_env({"pip": "requirements.txt", "conda": "an-environment"}, directory=str(tmp_path))
    assert found == {"pip": f"{tmp_path}/requirements.txt", "conda": "an-environment"}


def test_an_image_comes_from_the_file_or_the_flag() -> None:
    assert read_runtime_env(None, image="registry/tirazh:1") == {"image_uri": "registry/tirazh:1"}
    with pytest.raises(RequestError, match="--image names another"):
        read_runtime_env({"image_uri": "a"}, image="b")
    with pytest.raises(RequestError, match="has an image, with which Ray accepts no pip"):
        read_runtime_env({"pip": ["x"]}, image="b")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["pip"], "must be a mapping"),
        ({"working_dir": "."}, "must not have working_dir: it holds tirazh"),
        ({"py_modules": ["x"]}, "must not have py_modules"),
        ({"pipp": []}, r"has no field pipp; did you mean pip\?"),
        ({"env_vars": "A=1"}, "must be a mapping of names"),
        ({"env_vars": {"TOKEN": ["hunter2"]}}, "TOKEN must be a text"),
        ({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "1"}}, "`submit` sets it"),
        ({"pip": {1, 2}}, "only texts, numbers"),
    ],
)
def test_another_content_is_refused_with_its_place_and_without_values(given: Any, says: str) -> None:
    with pytest.raises(RequestError, match=rf"^job.yaml line 3: .*{says}") as caught:
        read_runtime_env(given, place="job.yaml line 3: ")
    assert "hunter2" not in str(caught.value)
