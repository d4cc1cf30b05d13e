"""The manifest of a job of several steps: the rows of its output, and a summary of every step."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from tirazh.pipeline.spec import JobSpec, StepsSpec
from tirazh.pipeline.steps.directories import step_of_round
from tirazh.pipeline.steps.expand import GENERATE
from tirazh.pipeline.steps.filtering.finish import add_counts
from tirazh.pipeline.steps.plan import PlannedStep
from tirazh.pipeline.storage.errors import show_uri

# Left out of the summary of a step: its own manifest has them.
_LEFT_OUT = ("parts", "spec", "versions", "steps", "timeline")
_TOKENS = ("prompt_tokens", "completion_tokens")


def describe_steps(
    spec: StepsSpec, step: PlannedStep, facts: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The manifest of a filter step; that of the last step describes the whole job.

    `facts` are those of its own rows, `before` the manifests of the steps before it, by their names. Tokens and seconds
    are sums over all steps.
    """
    summaries = [
        {"name": name} | {key: value for key, value in each.items() if key not in _LEFT_OUT}
        for name, each in before.items()
    ]
    seconds = sum(each.get("own_seconds", each["seconds"]) for each in before.values()) + facts["seconds"]
    tokens = {name: sum(int(each.get(name) or 0) for each in before.values()) for name in _TOKENS}
    total = sum(tokens.values())
    versions = {name: text for each in before.values() for name, text in each.get("versions", {}).items()}
    own = _own_spec(spec) if step.is_last else None
    return {
        "kind": own.kind if own is not None else spec.kind if step.is_last else "filter",
        "output": show_uri(step.output),
        **facts,
        **(tokens if step.is_last else dict.fromkeys(tokens, 0)),
        "own_seconds": facts["seconds"],
        "seconds": round(seconds, 3) if step.is_last else facts["seconds"],
        "tokens_per_s": round(total / seconds, 1) if seconds and step.is_last else 0.0,
        "error_kinds": _error_kinds(list(before.values())) if step.is_last else {},
        "versions": {"python": platform.python_version(), "tirazh": version("tirazh"), **versions},
        "steps": summaries if step.is_last else [],
        **_of_completions(before),
        **_timeline(before),
        "spec": (own or spec).to_dict(),  # contains no secrets: a spec refuses them
    }


def _own_spec(spec: StepsSpec) -> JobSpec | None:
    """The spec of a generate job, which has several steps because it filters; None for a job with steps of its own."""
    first = spec.steps[0]
    is_implied = len(spec.steps) == 1 and first.name == GENERATE and not spec.columns
    return replace(first.spec, output=spec.output) if is_implied and isinstance(first.spec, JobSpec) else None


def _timeline(before: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The progress over time of the only step with a model; those of several steps are in their own manifests."""
    found = [each["timeline"] for each in before.values() if each.get("timeline")]
    return {"timeline": found[0]} if len(found) == 1 else {}


def _of_completions(before: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How the completions of the last generate step ended and how long they are; its rounds are added up."""
    counted = [name for name, each in before.items() if each.get("finish_reasons")]
    if not counted:
        return {}
    last = step_of_round(counted[-1])
    rounds = [before[name] for name in counted if step_of_round(name) == last]
    lengths = add_counts(each.get("completion_lengths", {}) for each in rounds)
    return {
        "finish_reasons": add_counts(manifest["finish_reasons"] for manifest in rounds),
        "completion_lengths": dict(sorted(lengths.items(), key=lambda item: int(item[0].split("-")[0]))),
    }


def _error_kinds(before: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The kinds of errors of the last step that counts them: it passes on those of the steps before."""
    for manifest in reversed(before):
        if manifest.get("kind") != "filter":
            return dict(manifest.get("error_kinds", {}))
    return {}
