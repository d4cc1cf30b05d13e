"""The building blocks of a spec: settings with a help text, and the checks that every spec shares.

A setting is one field of a frozen dataclass. Command-line flags, YAML keys, Python arguments and
the manifest take their names and help texts from the fields.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

from tirazh.errors import RequestError
from tirazh.model.config import ModelSettings
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import holds_secret

# Groups of `--help`: settings that define the result (and so the job's identity), among them those of
# prompts, constrained decoding and data quality; settings of evaluation and reports; and settings of
# execution, which may change when a job is resumed.
SettingGroup = Literal["result", "prompts", "constraints", "quality", "evaluation", "execution"]
# The value of --model that names the model shipped with tirazh; it is not a path.
EMBEDDED_MODEL = "embedded"


def setting(  # noqa: PLR0913 - one argument for each property of a setting
    default: Any = MISSING,
    help: str = "",
    *,
    identity: bool | Literal["if given"] = False,
    group: SettingGroup | None = None,
    choices: tuple[str, ...] | None = None,
    path: bool = False,
    structure: bool = False,
    bare: str | None = None,
    required_unless: str | None = None,
) -> Any:
    """Declare a spec field.

    `help` is the text of `--help`. `identity` marks a setting that defines the result;
    "if given" one that is part of the identity only with another value than its default, so that outputs of versions
    without the setting can be resumed. `group` is the
    group of `--help` (default: "result" for an identity setting, else "execution"). `choices` are the
    allowed values. `path` marks a setting that holds paths or URIs of files, `structure` one whose value is any
    JSON value: YAML in a flag or a job file, or the path of a YAML or JSON file that holds it. `bare` is the value of
    the flag without a value, and of `true` in YAML. `required_unless` names the setting that may replace this one.
    """
    shown_in = group or ("result" if identity else "execution")
    return field(
        default=default,
        metadata={
            "help": help,
            "identity": bool(identity),
            "identity_if_given": identity == "if given",
            "group": shown_in,
            "choices": choices or (),
            "path": path,
            "structure": structure,
            "bare": bare,
            "required_unless": required_unless,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The base of every spec."""

    @property
    def kind(self) -> str:
        """The command that runs this spec."""
        raise TypeError(f"{type(self).__name__} cannot be run; use one of its subclasses")

    @property
    def model_settings(self) -> ModelSettings:
        """The settings that complete a checkpoint's own configuration."""
        return ModelSettings(**{each.name: getattr(self, each.name) for each in fields(ModelSettings)})

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON values, `kind` first: what the manifest stores and a job file may contain."""
        return {"kind": self.kind} | {each.name: _to_json(getattr(self, each.name)) for each in fields(self)}

    def identity(self) -> dict[str, Any]:
        """The settings that define the result, as JSON values, and `kind`.

        Paths are absolute, so that it does not matter from which directory they were named. Raises
        RequestError for a URI of an unknown scheme.
        """
        chosen = {
            each.name: _full_paths(_to_json(getattr(self, each.name)))
            if each.metadata["path"]
            else _to_json(getattr(self, each.name))
            for each in fields(self)
            if each.metadata["identity"]
            and not (each.metadata["identity_if_given"] and getattr(self, each.name) == each.default)
        }
        return {"kind": self.kind} | chosen

    def fingerprint(self) -> str:
        """Return the fingerprint of the identity. Equal fingerprints mean the same job."""
        return fingerprint_of(self.identity())

    def check_paths(self, *, addresses: Collection[str], needs_input: bool = True) -> None:
        """Raise RequestError for a missing input or output, and for texts that `check_texts` refuses."""
        settings = self.to_dict()
        if needs_input and not settings["input"]:
            or_vary = ", or --vary" if "vary" in settings else ""
            raise RequestError(f"no input was given; pass --input with at least one file, directory or glob{or_vary}")
        if not settings["output"]:
            raise RequestError("no output directory was given; pass --output")
        check_texts(settings, addresses=addresses)

    def check_choices(self) -> None:
        """Raise RequestError for a value that is not one of its field's choices."""
        for each in fields(self):
            choices, value = each.metadata["choices"], getattr(self, each.name)
            if choices and value is not None and value not in choices:
                raise RequestError(f"{flag_name(each.name)} must be one of {', '.join(choices)}, not {value!r}")


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return 16 hex digits of the SHA-256 of an identity."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flag_name(name: str) -> str:
    """The command-line flag of a spec field: `top_p` → `--top-p`."""
    if name == "from_checkpoint":  # `from` cannot be the name of a field or of an argument
        return "--from"
    return "--" + name.replace("_", "-")


def describe_changed(names: Sequence[str]) -> str:
    """`"--seed differs"` or `"--seed, --top-p differ"`, for settings in which two requests differ."""
    flags = ["the kind of job" if name == "kind" else flag_name(name) for name in names]
    return f"{', '.join(flags)} {'differs' if len(flags) == 1 else 'differ'}"


def is_required(each: Field[Any]) -> bool:
    """Whether a spec field has no default."""
    return each.default is MISSING and each.default_factory is MISSING


def check_at_least(name: str, value: int, least: int, most: int | None = None) -> None:
    """Raise RequestError unless `least <= value <= most`."""
    if value < least:
        raise RequestError(f"{flag_name(name)} must be at least {least}, not {value}")
    if most is not None and value > most:
        raise RequestError(f"{flag_name(name)} must be at most {most}, not {value}")


def check_two_labels(labels: Collection[str]) -> None:
    """Raise RequestError for fewer than two labels."""
    if len(labels) < 2:
        raise RequestError(f"--labels needs at least two labels, not {len(labels)}")


def check_fraction(name: str, value: float) -> None:
    """Raise RequestError unless `value` is between 0 and 1."""
    if not 0 <= value <= 1:
        raise RequestError(f"{flag_name(name)} must be between 0 and 1, not {value}")


def check_seconds(name: str, value: float) -> None:
    """Raise RequestError unless `value` is a finite time of at least one second."""
    if not 1 <= value < math.inf:
        raise RequestError(f"{flag_name(name)} must be 1 second or more, not {value}")


def check_int64(name: str, value: int) -> None:
    """Raise RequestError unless `value` fits in a signed 64-bit integer."""
    if not -(2**63) <= value < 2**63:
        raise RequestError(f"{flag_name(name)} must fit in 64 bits, not {value}")


def check_texts(settings: Mapping[str, Any], *, addresses: Collection[str]) -> None:
    """Raise RequestError for a text that no file can store and for an address that contains a secret.

    Settings are written to the plan and the manifest and are shown on the dashboard of a cluster.
    `addresses` names the settings that hold paths or URIs.
    """
    for name, value in settings.items():
        items = (
            [*value, *value.values()] if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
        )
        for text in (item for item in items if isinstance(item, str)):
            if "\0" in text or not _is_utf8(text):
                raise RequestError(
                    f"{flag_name(name)} contains a NUL or bytes that are not UTF-8 ({text[:80]!r}); remove them"
                )
            if name in addresses and not text.strip() and name != "output":  # `check_paths` reports an empty output
                raise RequestError(f"{flag_name(name)} is an empty string; give a value or omit the setting")
            if name in addresses and holds_secret(text):
                raise RequestError(
                    f"{flag_name(name)}: the address {show_uri(text)} contains a password or a signature; remove it "
                    "and set the credentials in the environment of the machines that read and write"
                )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _full_paths(value: Any) -> Any:
    """Make every path in a setting's value absolute; an input that is named twice is kept once."""
    # Imported here, because it loads fsspec, which `--help` does not need.
    from tirazh.pipeline.storage.filesystem import full_uri

    if isinstance(value, list):
        return list(dict.fromkeys(map(full_uri, value)))
    return value if value is None or value == EMBEDDED_MODEL else full_uri(value)


def _to_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
