"""The manifest of a job of several steps: the rows of its output, and a summary of every step."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from tirazh.pipeline.spec import StepsSpec
from tirazh.pipeline.steps.plan import PlannedStep
from tirazh.pipeline.storage.errors import show_uri

# Left out of the summary of a step: its own manifest has them.
_LEFT_OUT = ("parts", "spec", "versions", "steps")


def describe_steps(
    spec: StepsSpec, step: PlannedStep, facts: Mapping[str, Any], before: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The manifest of a filter step; that of the last step describes the whole job.

    `facts` are those of its own rows, `before` the manifests of the steps before it. Tokens and seconds are sums over
    all steps.
    """
    summaries = [{name: value for name, value in each.items() if name not in _LEFT_OUT} for each in before]
    for summary, named in zip(summaries, spec.steps, strict=False):
        summary["name"] = named.name
    seconds = sum(each.get("own_seconds", each["seconds"]) for each in before) + facts["seconds"]
    tokens = {name: sum(_own(each, name) for each in before) for name in ("prompt_tokens", "completion_tokens")}
    total = sum(tokens.values())
    versions = {name: text for each in before for name, text in each.get("versions", {}).items()}
    return {
        "kind": spec.kind if step.is_last else "filter",
        "output": show_uri(step.output),
        **facts,
        **(tokens if step.is_last else dict.fromkeys(tokens, 0)),
        "own_seconds": facts["seconds"],
        "seconds": round(seconds, 3) if step.is_last else facts["seconds"],
        "tokens_per_s": round(total / seconds, 1) if seconds and step.is_last else 0.0,
        "error_kinds": _error_kinds(before) if step.is_last else {},
        "versions": {"python": platform.python_version(), "tirazh": version("tirazh"), **versions},
        "steps": summaries if step.is_last else [],
        "spec": spec.to_dict(),  # contains no secrets: a spec refuses them
    }


def _own(manifest: Mapping[str, Any], name: str) -> int:
    return int(manifest.get(name) or 0)


def _error_kinds(before: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The kinds of errors of the last step that counts them: it passes on those of the steps before."""
    for manifest in reversed(before):
        if manifest.get("kind") != "filter":
            return dict(manifest.get("error_kinds", {}))
    return {}
