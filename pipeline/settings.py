"""What a spec is made of: fields with a help text, and what every frozen set of settings can do.

`spec.py` (jobs over rows) and `finetune/spec.py` (training) are built from it; flags, YAML keys, Python arguments and
the manifest take their names from the fields.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from tirazh.errors import RequestError
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import holds_secret


def setting(default: Any = MISSING, help: str = "", *, identity: bool = False, **extra: Any) -> Any:
    """A spec field: its default, the sentence `--help` shows, and whether it decides what the result will be."""
    return field(default=default, metadata={"help": help, "identity": identity, **extra})


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of every spec; `kind` is the command it belongs to."""

    @property
    def kind(self) -> str:
        raise TypeError(f"{type(self).__name__} is not run by itself")

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain JSON values, `kind` first; what the manifest holds and a YAML file may say."""
        return {"kind": self.kind} | {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def identity(self) -> dict[str, Any]:
        """The part of the spec that decides what the result will be."""
        chosen = {each.name: _plain(getattr(self, each.name)) for each in fields(self) if each.metadata["identity"]}
        return {"kind": self.kind} | chosen

    def fingerprint(self) -> str:
        """Sixteen hex digits of the identity; two runs with the same one belong to the same job."""
        text = json.dumps(self.identity(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check_places(self, *, addresses: Collection[str]) -> None:
        """Raise RequestError where no input or no output is named, and for texts that `check_texts` refuses."""
        settings = self.to_dict()
        if not settings["input"]:
            raise RequestError("no input was named; give --input at least one file, directory or glob")
        if not settings["output"]:
            raise RequestError("no output directory was named; give --output")
        check_texts(settings, addresses=addresses)

    def check_choices(self) -> None:
        """Raise RequestError for a value that is none of its field's choices."""
        for each in fields(self):
            choices, value = each.metadata.get("choices"), getattr(self, each.name)
            if choices and value is not None and value not in choices:
                raise RequestError(f"{flag_name(each.name)} must be one of {', '.join(choices)}, not {value!r}")


def flag_name(name: str) -> str:
    """The command line's spelling of a spec field."""
    return "--" + name.replace("_", "-")


def is_required(each: Field[Any]) -> bool:
    """Whether a spec field has no default."""
    return each.default is MISSING and each.default_factory is MISSING


def at_least(name: str, value: int, least: int, most: int | None = None) -> None:
    """Raise RequestError for a number out of bounds."""
    if value < least:
        raise RequestError(f"{flag_name(name)} must be at least {least}, not {value}")
    if most is not None and value > most:
        raise RequestError(f"{flag_name(name)} must be at most {most}, not {value}")


def share(name: str, value: float) -> None:
    """Raise RequestError for a number that is no share or probability."""
    if not 0 <= value <= 1:
        raise RequestError(f"{flag_name(name)} must be between 0 and 1, not {value}")


def seconds(name: str, value: float) -> None:
    """Raise RequestError for a time that is too short to wait for anything, or endless."""
    if not 1 <= value < math.inf:
        raise RequestError(f"{flag_name(name)} must be 1 second or more, not {value}")


def in_64_bits(name: str, value: int) -> None:
    """Raise RequestError for a number that no int64 holds."""
    if not -(2**63) <= value < 2**63:
        raise RequestError(f"{flag_name(name)} must fit in 64 bits, not {value}")


def check_texts(settings: Mapping[str, Any], *, addresses: Collection[str]) -> None:
    """Raise RequestError for texts that no file can hold, and for addresses with a secret in them: the settings are
    written to the plan and the manifest, and shown on a cluster's dashboard."""
    for name, value in settings.items():
        items = (
            [*value, *value.values()] if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
        )
        for text in (item for item in items if isinstance(item, str)):
            if "\0" in text or not _is_utf8(text):
                raise RequestError(f"{flag_name(name)} holds a NUL or bytes that are not UTF-8 ({text[:80]!r})")
            if name in addresses and not text.strip() and name != "output":  # which has a sentence of its own
                raise RequestError(f"{flag_name(name)} is an empty text; name something or leave it out")
            if name in addresses and holds_secret(text):
                raise RequestError(
                    f"{flag_name(name)}: the address {show_uri(text)} holds a password or a signature; take it out and "
                    "set the credentials in the environment of the machines that read and write"
                )


def _is_utf8(text: str) -> bool:
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
