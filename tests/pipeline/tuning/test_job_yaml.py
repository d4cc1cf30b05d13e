"""A job file that is written is read back with the same values."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tirazh.jobs.yaml_values.yaml_text import load_yaml
from tirazh.pipeline.tuning.job_yaml import job_text

# A job file holds no surrogates and no NUL (`check_texts`).
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
SCALARS = TEXTS | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.none()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)


@given(values=st.dictionaries(TEXTS, VALUES, max_size=5), header=st.lists(TEXTS, max_size=3))
def test_any_job_is_read_back_unchanged(values: dict[str, Any], header: list[str]) -> None:
    assert load_yaml(job_text(values, header=header) or "{}", name="job.yaml")[0] == (values or {})


def test_a_job_file_is_readable() -> None:
    values = {
        "kind": "classify",
        "template": "{{ text }}\nТема:",
        "labels": {"да": "no", "спорт": "спорт и игры"},
        "shots": 4,
        "seed": 0,
        "replicas": "1:8",
    }
    assert job_text(values, header=["found by `tirazh tune`"]).splitlines() == [
        "# found by `tirazh tune`",
        "kind: classify",
        'template: "{{ text }}\\nТема:"',
        "labels:",
        '  да: "no"',
        '  спорт: "спорт и игры"',
        "shots: 4",
        "seed: 0",
        'replicas: "1:8"',
    ]
