"""How the jobs of two outputs differ: the model, the settings that define their rows, and the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from tirazh.pipeline.drift.baselines import NamedOutput
from tirazh.pipeline.spec import ClassifySpec, EmbedSpec, GenerateSpec, ScoreSpec, StepsSpec
from tirazh.pipeline.storage.secrets import redact

_SPECS = {"classify": ClassifySpec, "generate": GenerateSpec, "score": ScoreSpec, "embed": EmbedSpec}
# The rows differ from night to night, and the model is compared by its weights.
_NOT_COMPARED = ("input", "limit", "model")
_SHOWN_SETTINGS, _SHOWN_LABELS, _SHOWN_CHARACTERS = 6, 5, 40


def differences(output: NamedOutput, baselines: Sequence[NamedOutput]) -> list[str]:
    """Sentences about what differs beside the rows. Baselines that differ in the same way share a sentence."""
    said: dict[str, list[str]] = {}
    for other in baselines:
        for sentence in _of_two(output.found.manifest, other.found.manifest):
            said.setdefault(sentence, []).append(other.name)
    return [f"{_names(names, len(baselines))}: {sentence}" for sentence, names in said.items()]


def label_differences(labels: Sequence[str], others: Sequence[str]) -> dict[str, list[str]]:
    """The labels that only one of two jobs has: `only_here` and `only_there`; both empty for equal sets."""
    return {
        "only_here": [label for label in labels if label not in set(others)],
        "only_there": [label for label in others if label not in set(labels)],
    }


def _of_two(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    if here.get("model_fingerprint") != there.get("model_fingerprint"):
        models = [str(each["spec"].get("model") or each.get("model_fingerprint")) for each in (there, here)]
        named = f" ({_shown(models[0])}, here {_shown(models[1])})" if models[0] != models[1] else ""
        yield f"the model is another one{named}"
    if here.get("dtype") != there.get("dtype"):
        yield f"the data type is {there.get('dtype')}, here {here.get('dtype')}"
    spec: Any = _SPECS.get(str(here["kind"]), StepsSpec)
    names = [each.name for each in fields(spec) if each.metadata.get("identity") and each.name not in _NOT_COMPARED]
    # `dtype` is compared as it was resolved; labels have a sentence of their own.
    names = [name for name in names if name not in ("dtype", "labels", "questions")]
    first, second = here["spec"], there["spec"]
    changed = [name for name in names if _value(first, name) != _value(second, name)]
    if changed:
        shown = [f"{name} {_shown(second.get(name))}, here {_shown(first.get(name))}" for name in changed]
        more = f"; and {len(changed) - _SHOWN_SETTINGS} more" if len(changed) > _SHOWN_SETTINGS else ""
        yield f"other settings ({'; '.join(shown[:_SHOWN_SETTINGS])}{more})"
    yield from _of_labels(first, second)


def _of_labels(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    asked, others = (each.get("questions") or {} for each in (first, second))
    if set(asked) != set(others):
        yield f"other questions ({_listed(sorted(others)) or 'one'}, here {_listed(sorted(asked)) or 'one'})"
    for name in asked or ("",):
        here = names_of_labels(asked[name] if name else first)
        there = names_of_labels((others.get(name) or {}) if name else second)
        found = label_differences(here, there)
        about = f" of {name}" if name else ""
        if name in (others or ("",)) and any(found.values()):
            parts = [f"only there {_listed(found['only_there'])}", f"only here {_listed(found['only_here'])}"]
            given = [
                part for part, names in zip(parts, (found["only_there"], found["only_here"]), strict=True) if names
            ]
            yield f"other labels{about} ({'; '.join(given)}), so that their shares are not tested"


def names_of_labels(settings: Mapping[str, Any]) -> list[str]:
    """The names of the labels in the settings of a job or of a question."""
    labels = settings.get("labels") or {}
    if isinstance(labels, str):
        labels = [part.strip() for part in labels.split(",") if part.strip()]
    return list(dict.fromkeys(map(str, labels)))


def _value(spec: Mapping[str, Any], name: str) -> Any:
    """The value of a setting; without one, as in an output of an earlier version, None, as an empty one."""
    return spec.get(name) or None


def _names(names: Sequence[str], count: int) -> str:
    return "all baselines" if len(names) == count > 1 else ", ".join(names)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(_shown(name) for name in names[:_SHOWN_LABELS])
    return shown if len(names) <= _SHOWN_LABELS else f"{shown} and {len(names) - _SHOWN_LABELS} more"


def _shown(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    # Redacted before it is cut: the beginning of a secret is not recognised.
    text = " ".join(redact(str(value)).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
