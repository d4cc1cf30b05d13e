"""The results of the Python functions are immutable mappings with typed attributes."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from tirazh import JobPlan, Manifest, TrainingManifest

VALUES: dict[str, Any] = {
    **{"kind": "classify", "output": "/out", "rows": 60, "errors": 1, "num_parts": 3, "parts": [{"rows": 60}]},
    **{"prompt_tokens": 900, "completion_tokens": 0, "seconds": 2.5, "dtype": "float32", "fingerprint": "00ff"},
    **{"labels": {"a": 59}, "accuracy": 0.75},
}


def test_attributes_and_items_of_a_manifest_are_the_same_values() -> None:
    manifest = Manifest(VALUES)
    assert (manifest.rows, manifest["rows"]) == (60, 60)
    for name in VALUES.keys() - {"num_parts"}:
        assert getattr(manifest, name) == manifest[name]
    assert manifest.macro_f1 is None
    assert "macro_f1" not in manifest
    assert manifest.get("macro_f1") is None


def test_a_manifest_is_shown_on_one_line() -> None:
    shown = "kind='classify', rows=60, errors=1, num_parts=3, accuracy=0.75, seconds=2.5, output='/out'"
    assert repr(Manifest(VALUES)) == f"Manifest({shown})"


def test_a_manifest_becomes_a_dictionary_and_json() -> None:
    manifest = Manifest(VALUES)
    copied = manifest.to_dict()
    assert copied == VALUES == json.loads(json.dumps(copied))
    copied["parts"][0]["rows"] = 0
    assert manifest.parts == [{"rows": 60}]
    assert pickle.loads(pickle.dumps(manifest)) == manifest


def test_a_manifest_cannot_be_changed() -> None:
    manifest: Any = Manifest(VALUES)
    with pytest.raises(AttributeError):
        manifest.rows = 1
    with pytest.raises(TypeError):
        manifest["rows"] = 1
    with pytest.raises(AttributeError):
        manifest.row  # noqa: B018 - raises


def test_a_plan_has_an_interval_of_seconds_where_the_shape_of_the_model_is_known() -> None:
    values = {"kind": "generate", "files": 1, "rows": 9, "parts": 2, "estimated_tokens": 99, "fingerprint": "ab"}
    assert JobPlan(values).seconds is None
    assert JobPlan(values | {"time_s": [8, 60]}).seconds == (8.0, 60.0)
    assert repr(JobPlan(values)) == "JobPlan(kind='generate', files=1, rows=9, parts=2, estimated_tokens=99)"


def test_a_training_manifest_has_losses_and_evaluations() -> None:
    values = {"output": "/m", "total_steps": 9, "trained_tokens": 90, "first_loss": 5, "last_loss": 4.5, "seconds": 1}
    made = TrainingManifest(values | {"evaluation": {"perplexity": 7.0}})
    assert (made.total_steps, made.first_loss, made.last_loss, made.evaluation["perplexity"]) == (9, 5.0, 4.5, 7.0)
