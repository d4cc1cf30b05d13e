"""The settings of a job, derived from the spec's fields: their names, types and help, and the way from loose values
(flags, YAML, Python) to a checked spec. The command line, job files and the Python functions all come through here.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tirazh.errors import RequestError, did_you_mean
from tirazh.jobs.labels import read_labels
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.settings import Spec
from tirazh.pipeline.spec import SPECS, JobSpec, flag_name, is_required

SettingType = Literal["text", "whole number", "number", "yes or no", "list", "labels"]
FINETUNE = "finetune"
# Everything that has settings: the jobs over rows, and training.
KINDS: dict[str, type[Spec]] = {**SPECS, FINETUNE: FinetuneSpec}
_SORTS: dict[Any, SettingType] = {str: "text", int: "whole number", float: "number", bool: "yes or no"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a spec, as someone who sets it sees it."""

    name: str
    sort: SettingType
    is_required: bool
    is_identity: bool
    default: Any
    choices: tuple[str, ...]
    help: str


def settings_of(kind: str) -> dict[str, Setting]:
    """Every setting of a kind by name; the kind's own first, then those that all jobs over rows share."""
    spec = KINDS[kind]
    hints = get_type_hints(spec)
    shared = {setting.name for setting in fields(JobSpec)} if kind in SPECS else set()
    settings = {}
    for setting in sorted(fields(spec), key=lambda setting: setting.name in shared):
        settings[setting.name] = Setting(
            name=setting.name,
            sort=_sort_of(hints[setting.name]),
            is_required=is_required(setting),
            is_identity=setting.metadata["identity"],
            default=None if setting.default is MISSING else setting.default,
            choices=tuple(setting.metadata.get("choices") or ()),
            help=setting.metadata["help"],
        )
    return settings


def build_spec(kind: str, values: Mapping[str, Any], *, place: Callable[[str], str] = lambda name: "") -> JobSpec:
    """A checked spec from loose values. `place` says where a setting was read ("job.yaml line 3: ").

    Raises RequestError for a name that does not exist, a value of the wrong type and a setting that is missing.
    """
    return SPECS[kind](**_checked(kind, values, place))


def build_finetune_spec(values: Mapping[str, Any], *, place: Callable[[str], str] = lambda name: "") -> FinetuneSpec:
    """`build_spec` for a training."""
    return FinetuneSpec(**_checked(FINETUNE, values, place))


def _checked(kind: str, values: Mapping[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    known = settings_of(kind)
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise RequestError(f"{place(name)}{unknown_setting(kind, name)}")
        if value is None:
            continue  # `limit:` with nothing behind it means the default
        checked[name] = check_value(known[name], value, place=place(name))
    _refuse_missing([each for each in known.values() if each.is_required and each.name not in checked])
    return checked


def check_value(setting: Setting, value: Any, *, place: str = "") -> Any:
    """The value as the spec wants it. Raises RequestError when it is of another type, or not one of the choices."""
    if setting.sort == "labels":
        return read_labels(value, place=place)
    if setting.sort == "list":
        return _text_list(setting, value, place)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if _is_number_as_text(setting, value):
        value = str(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # may be too long to be printed, too
        raise RequestError(f"{place}{setting.name} must be {_a(setting.sort)} that fits in 64 bits")
    if not _fits(setting.sort, value):
        raise RequestError(f"{place}{setting.name} must be {_a(setting.sort)}, not {value!r}")
    if setting.choices and value not in setting.choices:
        raise RequestError(f"{place}{setting.name} {not_a_choice(value, setting.choices)}")
    return float(value) if setting.sort == "number" else value


def unknown_setting(kind: str, name: str) -> str:
    """What to say of a setting that this kind of job does not have."""
    own = settings_of(kind)
    for other in KINDS:
        if name not in own and name in settings_of(other):
            return f"{name} belongs to kind: {other}, and this is a {kind} job"
    return f"{kind} has no setting {name!r}{did_you_mean(name.replace('-', '_'), own)}"


def not_a_choice(value: Any, choices: tuple[str, ...]) -> str:
    """The rest of a sentence about a value that is none of the choices."""
    return f"must be one of {', '.join(choices)}, not {value!r}{did_you_mean(str(value), choices)}"


def _refuse_missing(missing: list[Setting]) -> None:
    if len(missing) == 1:
        raise RequestError(f"{flag_name(missing[0].name)} is missing: {missing[0].help}")
    if missing:
        raise RequestError(f"{', '.join(flag_name(setting.name) for setting in missing)} are missing")


def _sort_of(hint: Any) -> SettingType:
    """What a type annotation asks for; None beside it makes no difference."""
    if get_origin(hint) in (Union, types.UnionType):
        return _sort_of(next(arm for arm in get_args(hint) if arm is not type(None)))
    if get_origin(hint) is Literal:
        return "text"
    if get_origin(hint) is tuple:
        return "list"
    return _SORTS.get(hint, "labels")


def _text_list(setting: Setting, value: Any, place: str) -> tuple[str, ...]:
    many = [value] if isinstance(value, str | os.PathLike) else value
    if not isinstance(many, list | tuple):
        raise RequestError(f"{place}{setting.name} must be a text or a list of texts, not {value!r}")
    for item in many:
        if not isinstance(item, str | os.PathLike):
            raise RequestError(f"{place}{setting.name} must hold texts only, not {item!r}")
    return tuple(os.fspath(item) for item in many)


def _is_number_as_text(setting: Setting, value: Any) -> bool:
    """`replicas: 4` is as good as `replicas: "4"`."""
    takes_numbers = isinstance(setting.default, str) and setting.default.isdigit()
    return takes_numbers and isinstance(value, int) and not isinstance(value, bool)


def _fits(sort: SettingType, value: Any) -> bool:
    if sort == "yes or no":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    allowed = {"text": str, "whole number": int, "number": (int, float)}[sort]
    return isinstance(value, allowed)  # type: ignore[arg-type]


def _a(sort: SettingType) -> str:
    return "true or false" if sort == "yes or no" else f"a {sort}"
