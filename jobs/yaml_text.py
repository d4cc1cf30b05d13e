"""YAML as this project reads it: plain values only, the 1.2 rules for yes/no/1:8, no key twice, and known lines.

A file may come from anybody, so what it may cost is bounded: its size, its depth, and no value stands for others
(aliases make a few lines into billions of values, or into a circle).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tirazh.errors import RequestError

MAX_BYTES = 16 << 20
MAX_DEPTH = 16
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """PyYAML reads `no` as false, `1:8` as 68 and `2026-11-24` as a date; labels, replicas and columns suffer."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read", problem_mark=mark)
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"it is nested more than {MAX_DEPTH} deep", problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or str(tag).rpartition(":")[2] in _PLAIN
}
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(loader.construct_scalar(node))))  # type: ignore[arg-type]
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(str(loader.construct_scalar(node))))  # type: ignore[arg-type]


def read_text(path: Path, *, what: str) -> str:
    """The file's text. Raises RequestError, in words that name `what` it was to be, when there is none to read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RequestError(f"{what} {path} does not exist") from None
    except IsADirectoryError:
        raise RequestError(f"{what} {path} is a directory; name a YAML file") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{what} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise RequestError(f"{what} {path} has more than {MAX_BYTES >> 20} MiB, too much to be one")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{what} {path} is not UTF-8 text") from None


def load_yaml(text: str, *, name: str) -> tuple[Any, dict[str, int]]:
    """The value and, where it is a mapping, the line (from 1) of each of its keys. Raises RequestError."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise RequestError(f"{name} is empty")
        _refuse_doubles(node, name)
        return loader.construct_object(node, deep=True), _key_lines(node)
    except RequestError:
        raise
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RequestError(f"{name} line {line}: only plain values can be read, without tags (!...)") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RequestError(f"{name} is not readable YAML{at}: {error.problem}") from None
    except yaml.YAMLError:
        raise RequestError(f"{name} is not readable YAML: it holds characters that no text has") from None
    except (ValueError, KeyError):
        raise RequestError(
            f"{name} holds a value that is not what its tag (!!...) says, or a number too long"
        ) from None


def _key_lines(node: yaml.Node) -> dict[str, int]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {str(key.value): key.start_mark.line + 1 for key, _ in node.value}


def _refuse_doubles(node: yaml.Node, name: str) -> None:
    """A key that is there twice: YAML would keep the last one and say nothing."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubles(item, name)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                raise RequestError(f"{name} line {key.start_mark.line + 1}: {key.value} is there twice")
            seen.add(str(key.value))
            _refuse_doubles(value, name)
