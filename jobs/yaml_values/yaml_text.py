"""A strict YAML reader: plain values, YAML 1.2 rules, no duplicate keys, and the line of each key.

Job files may come from untrusted users, so size and depth are bounded and aliases are refused: a
few lines of aliases expand to billions of values, or to a cycle.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import Resolver
from yaml.scanner import Scanner

from tirazh.errors import RequestError

if yaml.__with_libyaml__:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


class _Composer(Composer):
    """Builds nodes of bounded depth, without aliases."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = cast(Any, self).peek_event().start_mark  # the stub of PyYAML does not annotate it
        if cast(Any, self).check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=mark)
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels of nesting", problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


if yaml.__with_libyaml__:
    # The scanner of libyaml takes a sixth of the time of PyYAML's own.
    class _Scanner(_Composer, CParser):
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            _Composer.__init__(self)
else:

    class _Scanner(_Composer, Reader, Scanner, Parser):  # type: ignore[no-redef]
        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            Scanner.__init__(self)
            Parser.__init__(self)
            _Composer.__init__(self)


class _Loader(_Scanner, SafeConstructor, Resolver):
    """Loads plain values.

    PyYAML's own rules read `no` as false, `1:8` as 68 and `2026-11-24` as a date.
    """

    def __init__(self, text: str) -> None:
        _Scanner.__init__(self, text)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)


# The core schema of YAML 1.2.2, section 10.3.2, without octal and hexadecimal integers, `.inf` and
# `.nan`. What matches none of these is a string.
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
# Without the constructors of timestamps, sets, binary data and Python objects.
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or str(tag).rpartition(":")[2] in _PLAIN
}
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(loader.construct_scalar(node))))  # type: ignore[arg-type]
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(str(loader.construct_scalar(node))))  # type: ignore[arg-type]


def read_text(path: Path, *, what: str) -> str:
    """Return the text of a file.

    Raises RequestError when it cannot be read; `what` names the file in the message.
    """
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
        raise RequestError(f"{what} {path} is larger than {MAX_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{what} {path} is not UTF-8 text") from None


def load_yaml(text: str, *, name: str) -> tuple[Any, dict[str, int]]:
    """Return the value and, if it is a mapping, the line (from 1) of each of its keys.

    Raises RequestError.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise RequestError(f"{name} is empty")
        _refuse_duplicates(node, name)
        return loader.construct_object(node, deep=True), _key_lines(node)
    except RequestError:
        raise
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RequestError(f"{name} line {line}: only plain values are allowed, without tags (!...)") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RequestError(f"{name} is not valid YAML{at}: {error.problem}") from None
    except yaml.YAMLError:
        raise RequestError(f"{name} is not valid YAML: it holds control characters") from None
    except (ValueError, KeyError):
        raise RequestError(
            f"{name} holds a value that does not match its tag (!!...), or a number with too many digits"
        ) from None


def _key_lines(node: yaml.Node) -> dict[str, int]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {str(key.value): key.start_mark.line + 1 for key, _ in node.value}


def _refuse_duplicates(node: yaml.Node, name: str) -> None:
    """Raise RequestError for a duplicate key, of which PyYAML would silently keep the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, name)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                raise RequestError(f"{name} line {key.start_mark.line + 1}: duplicate key {key.value}")
            seen.add(str(key.value))
            _refuse_duplicates(value, name)
