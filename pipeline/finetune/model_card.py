"""The model card: a README.md with the YAML header of the Hugging Face Hub, beside the model.

Names of files, labels and templates come from users and their data: in the card each is a code span or a
code block that it cannot end. Secrets are removed from the whole text.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from tirazh.pipeline.finetune.row_account import cut_text
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import redact

_LIBRARIES = ("tirazh", "torch", "deepspeed", "transformers", "peft", "tokenizers", "ray")
_MEASURES = ("perplexity", "accuracy", "macro_f1")
_COUNTS = ("rows", "documents", "sequences", "tokens", "skipped")
_MAX_LABELS = 200
_MAX_CODE = 300


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that train a model, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def render_model_card(manifest: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> str:
    """Render the card of a training. `manifest` is its summary, `log` the entries of `losses.jsonl`."""
    spec = manifest["spec"]
    header = {
        **({"license": spec["license"]} if spec.get("license") else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["tirazh", *(["lora"] if spec.get("lora_rank") else [])],
    }
    text = yaml.safe_dump(header, allow_unicode=True, sort_keys=False)
    sections = [
        f"# {_code(_last(manifest['output']))}",
        "\n".join(_facts(manifest)),
        *_section("Labels", _labels(spec)),
        *_section("Prompt template", [_fenced(spec["template"])] if spec.get("template") else []),
        *_section("Figures", _figures(manifest, log)),
        *_section("How to train it again", _settings(spec)),
        *_section("Versions", [", ".join(f"{name} {_code(each)}" for name, each in manifest["versions"].items())]),
    ]
    return redact(f"---\n{text}---\n\n" + "\n\n".join(sections) + "\n")


def _facts(manifest: Mapping[str, Any]) -> Iterator[str]:
    spec = manifest["spec"]
    yield f"- Base model: {_code(spec['model'])}, fingerprint {_code(manifest['model_fingerprint'])}"
    yield f"- Licence: {_code(spec['license']) if spec.get('license') else 'not stated'}"
    yield f"- Trained on: {_files(spec['input'])}{_kind(spec)}"
    counts = [f"{manifest[name]:,} {name}" for name in _COUNTS if isinstance(manifest.get(name), int)]
    yield f"- {', '.join(counts)}; packing {_code(manifest['packing'])}, {manifest['seq_length']:,} tokens a sequence"
    for each in manifest.get("sources") or ():
        yield (
            f"- {_code(each['input'])}: weight {each['weight']:g}, {each['rows']:,} rows, {each['tokens']:,} tokens, "
            f"{each['sequences']:,} sequences"
        )
    if (cut := cut_text(manifest)) is not None:
        yield f"- {cut}"
    for name, what in (("eval_input", "Held-out rows"), ("label_input", "Labelled rows")):
        if spec.get(name):
            yield f"- {what}: {_files(spec[name])}{_rows_of((manifest.get('evaluation_rows') or {}).get(name))}"
    lora = f", LoRA of rank {spec['lora_rank']} in {', '.join(spec['lora_targets'])}" if spec.get("lora_rank") else ""
    yield (
        f"- {manifest['total_steps']:,} steps of {spec['batch_size']} sequences, peak learning rate "
        f"{spec['learning_rate']:g} ({_code(spec['lr_schedule'])}), in {_code(manifest['dtype'])} on "
        f"{_code(manifest['device'])}{lora}, seed {spec.get('seed')}"
    )
    yield f"- {manifest['trained_tokens']:,} trained tokens in {manifest['seconds']:,} seconds"


def _rows_of(counts: Mapping[str, Any] | None) -> str:
    """The rows of an evaluation: all, those that are skipped by reason, and the texts that are cut."""
    if counts is None:
        return ""
    parts = [f"{counts['rows']:,} rows"]
    if counts["skipped"]:
        reasons = ", ".join(f"{name} {each['rows']:,}" for name, each in counts["skipped_reasons"].items())
        parts.append(f"{counts['skipped']:,} skipped ({reasons})")
    if (cut := cut_text(counts)) is not None:
        parts.append(cut)
    return f": {', '.join(parts)}"


def _kind(spec: Mapping[str, Any]) -> str:
    if spec.get("messages_column") is not None:
        return f", the assistant's messages of column {_code(spec['messages_column'])}"
    if spec.get("completion_column") is None:
        return f", texts of column {_code(spec['text_column'])}"
    return f", completions of column {_code(spec['completion_column'])}"


def _files(uris: Sequence[str]) -> str:
    return ", ".join(_code(show_uri(uri)) for uri in uris)


def _labels(spec: Mapping[str, Any]) -> list[str]:
    labels: Mapping[str, Any] = spec.get("labels") or {}
    lines = [f"- {_code(name)}: {_code(_words(words))}" for name, words in list(labels.items())[:_MAX_LABELS]]
    more = len(labels) - len(lines)
    return ["\n".join([*lines, *([f"- and {more:,} more"] if more > 0 else [])])] if lines else []


def _words(value: Any) -> str:
    return str(value.get("words", "")) if isinstance(value, Mapping) else str(value)


def _figures(manifest: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the losses, and a table of the first and the last evaluation."""
    lines = [f"Loss of the first step {manifest['first_loss']:.4f}, of the last steps {manifest['last_loss']:.4f}."]
    measured = [entry for entry in log if any(name in entry for name in _MEASURES)]
    after: Mapping[str, Any] = manifest["evaluation"]
    names = [name for name in _MEASURES if isinstance(after.get(name), float | int)]
    if not measured or not names:
        return lines
    first = measured[0]
    before = "before training" if first.get("step") == 0 else f"at step {first.get('step')} (the first evaluation)"
    rows = [f"| {name.replace('_', ' ')} | {_number(first.get(name))} | {_number(after[name])} |" for name in names]
    return [*lines, "\n".join([f"| | {before} | of this model |", "|---|---:|---:|", *rows])]


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) else ""


def _settings(spec: Mapping[str, Any]) -> list[str]:
    values = {name: value for name, value in spec.items() if value is not None and value != []}
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=120)
    return ["Save these settings as `train.yaml` and run `tirazh finetune --config train.yaml`:", _fenced(text, "yaml")]


def _section(title: str, paragraphs: Sequence[str]) -> list[str]:
    return [f"## {title}", *paragraphs] if paragraphs else []


def _last(path: Any) -> str:
    return str(path).rstrip("/").rsplit("/", 1)[-1]


def _code(value: Any) -> str:
    """The value as a code span on one line, whatever backticks, tags or control characters it has."""
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in str(value)).split()) or " "
    text = text if len(text) <= _MAX_CODE else f"{text[:_MAX_CODE]}…"
    fence = "`" * (1 + max((len(each) for each in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _fenced(text: str, language: str = "text") -> str:
    """The text as a code block, whatever backticks it has."""
    fence = "`" * max(3, 1 + max((len(each) for each in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
