"""The settings of every kind of job, derived from the fields of the specs.

The command line, job files and the Python functions read names, types and help texts here, and turn
the values that they were given into a checked spec here.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tirazh.errors import RequestError, TirazhError, did_you_mean
from tirazh.jobs.yaml_values.labels import read_labels
from tirazh.jobs.yaml_values.structures import read_structure
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.settings import SettingGroup, Spec
from tirazh.pipeline.spec import SPECS, FilterSpec, JobSpec, flag_name, is_required

SettingType = Literal["string", "integer", "number", "boolean", "list", "numbers", "labels", "structure"]
FINETUNE = "finetune"
FILTER = "filter"
KINDS: dict[str, type[Spec]] = {**SPECS, FINETUNE: FinetuneSpec}
# The kinds that a step of a job may have.
STEP_KINDS: dict[str, type[Spec]] = {**SPECS, FILTER: FilterSpec}
_TYPES: dict[Any, SettingType] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_ARTICLES = {"string": "a string", "integer": "an integer", "number": "a number", "boolean": "true or false"}

# Names of settings in the API of OpenAI, in vLLM, transformers and lm-evaluation-harness. The command line and
# job files suggest our name where they refuse such a name.
OTHER_NAMES = {
    "n": "samples",
    "best_of": "samples",
    "num_samples": "samples",
    "num_return_sequences": "samples",
    "num_generations": "samples",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "max_gen_toks": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "min_length": "min_new_tokens",
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "stop_token": "stop",
    "until": "stop",
    "bad_words_ids": "bad_words",
    "sequence_bias": "logit_bias",
    "encoder_repetition_penalty": "repetition_penalty",
    "random_seed": "seed",
    "json_schema": "schema",
    "guided_json": "schema",
    "response_format": "schema",
    "guided_regex": "regex",
    "guided_choice": "choices",
    "num_fewshot": "shots",
    "num_shots": "shots",
    "tensor_parallel_size": "tensor_parallel",
    "max_model_len": "seq_length",
    "max_num_seqs": "slots",
    "batch_size": "slots",
    "torch_dtype": "dtype",
    "model_name_or_path": "model",
    "tokenizer_name": "tokenizer",
    "num_replicas": "replicas",
    "concurrency": "replicas",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a spec, as the command line and job files present it."""

    name: str
    type: SettingType
    is_required: bool
    is_identity: bool
    group: SettingGroup
    default: Any
    choices: tuple[str, ...]
    help: str
    bare: str | None = None
    required_unless: str | None = None


def settings_of(kind: str) -> dict[str, Setting]:
    """Return every setting of a kind by name: first its own, then those that all jobs over rows share."""
    spec = (KINDS | STEP_KINDS)[kind]
    hints = get_type_hints(spec)
    shared = {field.name for field in fields(JobSpec)} if kind in SPECS else set()
    settings = {}
    for field in sorted(fields(spec), key=lambda field: field.name in shared):
        settings[field.name] = Setting(
            name=field.name,
            type="structure" if field.metadata["structure"] else _type_of(hints[field.name]),
            is_required=is_required(field) or field.metadata["required_unless"] is not None,
            is_identity=field.metadata["identity"],
            group=field.metadata["group"],
            default=None if field.default is MISSING else field.default,
            choices=tuple(field.metadata.get("choices") or ()),
            help=field.metadata["help"],
            bare=field.metadata["bare"],
            required_unless=field.metadata["required_unless"],
        )
    return settings


def build_spec(kind: str, values: Mapping[str, Any], *, place: Callable[[str], str] = lambda name: "") -> JobSpec:
    """Build a checked spec of a job over rows from values of flags, YAML or Python.

    `place` returns where a setting was read ("job.yaml line 3: "), for messages. Raises
    RequestError for an unknown name, a value of the wrong type and a missing setting.
    """
    if kind == "classify":
        values = dict(values) | _trained_task(values)
    return SPECS[kind](**_checked(kind, values, place))


def _trained_task(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels and the template that the model was trained with, for a job that gives no labels.

    Raises CheckpointError when the model's file about them is damaged, and RequestError for labels that
    are none. A model in a store that cannot be read from here has none: the job that reads it says why.
    """
    model = values.get("model")
    if not isinstance(model, str | os.PathLike) or any(
        values.get(name) is not None for name in ("labels", "questions")
    ):
        return {}
    from tirazh.model.checkpoints.task import read_task
    from tirazh.pipeline.trained_task import task_file, task_folder

    name, endpoint_url = os.fspath(model), values.get("endpoint_url")
    try:
        folder = task_folder(name, None if endpoint_url is None else str(endpoint_url))
    except TirazhError:
        if "://" not in name:
            raise
        return {}
    task = read_task(folder)
    if task is None or task.labels is None:
        return {}
    found: dict[str, Any] = {"labels": read_labels(task.labels, place=f"{task_file(name, folder)}: ")}
    is_given = values.get("template") is not None
    return found if is_given or task.template is None else found | {"template": task.template}


def build_finetune_spec(values: Mapping[str, Any], *, place: Callable[[str], str] = lambda name: "") -> FinetuneSpec:
    """Build a checked spec of finetune, as `build_spec` does."""
    return FinetuneSpec(**_checked(FINETUNE, values, place))


def build_filter_spec(values: Mapping[str, Any], *, place: Callable[[str], str] = lambda name: "") -> FilterSpec:
    """Build a checked spec of a filter step, as `build_spec` does."""
    return FilterSpec(**_checked(FILTER, values, place))


def check_value(setting: Setting, value: Any, *, place: str = "") -> Any:
    """Return the value as the spec stores it.

    Raises RequestError for a wrong type and for none of the choices.
    """
    if setting.bare is not None and isinstance(value, bool):
        return setting.bare if value else None
    if setting.type == "labels":
        return read_labels(value, place=place)
    if setting.type == "structure":
        return read_structure(setting.name, value, place=place)
    if setting.type in ("list", "numbers"):
        return (_string_list if setting.type == "list" else _number_list)(setting, value, place)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if _is_number_for_string(setting, value):
        value = str(value)
    # Such an integer is refused without printing it: Python does not print integers of more than
    # 4,300 digits.
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise RequestError(f"{place}{setting.name} must be {_ARTICLES[setting.type]} that fits in 64 bits")
    if not _fits(setting.type, value):
        raise RequestError(f"{place}{setting.name} must be {_ARTICLES[setting.type]}, not {value!r}")
    if setting.choices and value not in setting.choices:
        raise RequestError(f"{place}{setting.name} {not_a_choice(value, setting.choices)}")
    return float(value) if setting.type == "number" else value


def unknown_setting(kind: str, name: str) -> str:
    """Return the message for a setting that this kind of job does not have."""
    own = settings_of(kind)
    for other in KINDS:
        if name not in own and name in settings_of(other):
            return f"{name} is a setting of kind: {other}, but this is a {kind} job"
    wanted = name.replace("-", "_")
    other_name = OTHER_NAMES.get(wanted.lower())
    hint = f"; did you mean {other_name}?" if other_name in own else did_you_mean(wanted, own)
    return f"{kind} has no setting {name!r}{hint}"


def not_a_choice(value: Any, choices: tuple[str, ...]) -> str:
    """Return the end of the message for a value that is none of the choices."""
    return f"must be one of {', '.join(choices)}, not {value!r}{did_you_mean(str(value), choices)}"


def _checked(kind: str, values: Mapping[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    known = settings_of(kind)
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise RequestError(f"{place(name)}{unknown_setting(kind, name)}")
        if value is None:
            continue  # `limit:` without a value in a job file means the default
        checked[name] = check_value(known[name], value, place=place(name))
    missing = [setting for setting in known.values() if setting.is_required and setting.name not in checked]
    _refuse_missing([setting for setting in missing if setting.required_unless not in checked])
    return checked


def _refuse_missing(missing: list[Setting]) -> None:
    if len(missing) == 1:
        raise RequestError(f"{flag_name(missing[0].name)} is missing: {missing[0].help}")
    if missing:
        raise RequestError(f"{', '.join(flag_name(setting.name) for setting in missing)} are missing")


def _type_of(hint: Any) -> SettingType:
    """Return the setting type of a type annotation; `X | None` has the type of X."""
    if get_origin(hint) in (Union, types.UnionType):
        return _type_of(next(arm for arm in get_args(hint) if arm is not type(None)))
    if get_origin(hint) is Literal:
        return "string"
    if get_origin(hint) is tuple:
        return "numbers" if get_args(hint)[0] is float else "list"
    return _TYPES.get(hint, "labels")


def _string_list(setting: Setting, value: Any, place: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(values, list | tuple):
        raise RequestError(f"{place}{setting.name} must be a string or a list of strings, not {value!r}")
    for item in values:
        if not isinstance(item, str | os.PathLike):
            raise RequestError(f"{place}{setting.name} must hold strings only, not {item!r}")
    return tuple(os.fspath(item) for item in values)


def _number_list(setting: Setting, value: Any, place: str) -> tuple[float, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    for item in values:
        if not _fits("number", item):
            raise RequestError(f"{place}{setting.name} must be a number or a list of numbers, not {item!r}")
    return tuple(map(float, values))


def _is_number_for_string(setting: Setting, value: Any) -> bool:
    """Whether an integer was given for a string such as `replicas: "4"`."""
    takes_numbers = isinstance(setting.default, str) and setting.default.isdigit()
    return takes_numbers and isinstance(value, int) and not isinstance(value, bool)


def _fits(kind: SettingType, value: Any) -> bool:
    if isinstance(value, bool) or kind == "boolean":
        return isinstance(value, bool) and kind == "boolean"
    allowed: dict[SettingType, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float)}
    return isinstance(value, allowed[kind])
