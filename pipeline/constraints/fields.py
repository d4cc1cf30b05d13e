"""The typed columns of a JSON Schema: one for each property of its object, and the values of a completion in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from tirazh.model.constraints.schema_text import tightened
from tirazh.pipeline.constraints.settings import ConstraintSettings

Kind = Literal["string", "integer", "number", "boolean", "json", "list", "struct"]
_ARROW: dict[Kind, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "json": pa.string(),
}
_OF_PYTHON: dict[type, Kind] = {str: "string", bool: "boolean", int: "integer", float: "number"}
_MAX_DEPTH = 16  # of nested columns; what is deeper is JSON text


@dataclass(frozen=True, slots=True)
class FieldType:
    """The type of a field: `children` are the items of a list or, by `names`, the fields of a struct. "json" stands for
    values that no single Arrow type holds; they are written as JSON text."""

    kind: Kind
    children: tuple[FieldType, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of the column."""
        if self.kind == "list":
            return pa.list_(self.children[0].arrow)
        if self.kind == "struct":
            pairs = zip(self.names, self.children, strict=True)
            return pa.struct([pa.field(name, child.arrow) for name, child in pairs])
        return _ARROW[self.kind]

    def convert(self, value: Any) -> Any:
        """Return a value of JSON as one of the column. Raises ValueError for one that the column cannot hold."""
        if value is None:
            return None
        if self.kind == "json":
            return _writable(json.dumps(value, ensure_ascii=False))
        if self.kind == "list":
            return [self.children[0].convert(each) for each in _expect(value, list)]
        if self.kind == "struct":
            given = _expect(value, dict)
            pairs = zip(self.names, self.children, strict=True)
            return {name: child.convert(given.get(name)) for name, child in pairs}
        return _scalar(self.kind, value)


@dataclass(frozen=True, slots=True)
class SchemaField:
    """A property of the schema's object, which becomes a column of this name."""

    name: str
    type: FieldType


JSON_TEXT = FieldType("json")


def schema_fields(schema: Mapping[str, Any]) -> tuple[SchemaField, ...]:
    """Return the fields of a schema, in its order; none where it describes no object with properties."""
    root = tightened(dict(schema))
    found = _Types(root).of(root, 0, ())
    return tuple(map(SchemaField, found.names, found.children)) if found.kind == "struct" else ()


def fields_of(spec: ConstraintSettings) -> tuple[SchemaField, ...]:
    """The fields of a job's schema; none without one, and none where each row has its own."""
    return () if spec.schema is None else schema_fields(spec.schema)


def fill_fields(
    texts: Sequence[str | None], errors: Sequence[str | None], fields: Sequence[SchemaField]
) -> tuple[list[str | None], list[pa.Array[Any]]]:
    """Return the errors of all rows and the columns of the fields, from the rows' completions.

    A row that has an error, or whose completion is not the JSON that the schema describes, has nulls there; the latter
    gets an error.
    """
    found: list[str | None] = list(errors)
    rows: list[list[Any]] = [[None] * len(fields) for _ in texts]
    for index, text in enumerate(texts):
        if text is None or errors[index] is not None:
            continue
        try:
            values = _expect(json.loads(text), dict)
            rows[index] = [field.type.convert(values.get(field.name)) for field in fields]
        except (ValueError, RecursionError) as error:
            found[index] = f"invalid: the completion does not follow the schema ({str(error)[:200]})"
    columns = [pa.array([row[index] for row in rows], field.type.arrow) for index, field in enumerate(fields)]
    return found, columns


class _Types:
    """Derives field types; resolves references within the schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def of(self, node: Any, depth: int, seen: tuple[str, ...]) -> FieldType:
        """The type of a schema. `seen` are the references that led to it."""
        if not isinstance(node, Mapping) or depth > _MAX_DEPTH:
            return JSON_TEXT
        if "$ref" in node:
            name = node["$ref"]
            found = None if name in seen else self._resolve(name)
            return JSON_TEXT if found is None else self.of(found, depth, (*seen, name))
        for key in ("anyOf", "oneOf", "allOf"):
            if key in node:
                return self._of_alternatives(node[key], depth, seen)
        if "const" in node or "enum" in node:
            return _of_values(node["enum"] if "enum" in node else [node["const"]])
        return self._of_type(node, depth, seen)

    def _of_alternatives(self, nodes: Any, depth: int, seen: tuple[str, ...]) -> FieldType:
        is_list = isinstance(nodes, list)
        others = [each for each in nodes if not _is_null(each)] if is_list else []
        types = {self.of(each, depth + 1, seen) for each in others}
        return types.pop() if len(types) == 1 else JSON_TEXT

    def _of_type(self, node: Mapping[str, Any], depth: int, seen: tuple[str, ...]) -> FieldType:
        given = node.get("type")
        kinds = set(given) if isinstance(given, list) else {given}
        kinds -= {"null"}
        if kinds == {"integer", "number"}:
            return FieldType("number")
        kind = kinds.pop() if len(kinds) == 1 else None
        if kind in ("string", "integer", "number", "boolean"):
            return FieldType(kind)
        if kind == "array" and isinstance(node.get("items"), Mapping) and "prefixItems" not in node:
            return FieldType("list", (self.of(node["items"], depth + 1, seen),))
        if kind == "object" and node.get("properties") and node.get("additionalProperties") is False:
            properties: Mapping[str, Any] = node["properties"]
            children = tuple(self.of(each, depth + 1, seen) for each in properties.values())
            return FieldType("struct", children, tuple(properties))
        return JSON_TEXT

    def _resolve(self, name: Any) -> Any:
        """The schema that a reference such as `#/$defs/person` names; None where there is none."""
        if not isinstance(name, str) or not name.startswith("#"):
            return None
        found: Any = self._root
        for step in name.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def _of_values(values: Any) -> FieldType:
    given = {type(value) for value in values if value is not None} if isinstance(values, list) else set()
    if given == {int, float}:
        return FieldType("number")
    kind = _OF_PYTHON.get(next(iter(given))) if len(given) == 1 else None
    return JSON_TEXT if kind is None else FieldType(kind)


def _is_null(node: Any) -> bool:
    return isinstance(node, Mapping) and (node.get("type") == "null" or node.get("const", "") is None)


def _scalar(kind: Kind, value: Any) -> Any:
    if kind == "string":
        return _writable(_expect(value, str))
    if kind == "boolean":
        return _expect(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{str(value)[:40]!r} is no {kind}")
    if kind == "integer":
        if value != int(value) or not -(2**63) <= value < 2**63:
            raise ValueError(f"{str(value)[:40]} does not fit in an int64")
        return int(value)
    if not math.isfinite(float(value)):
        raise ValueError(f"{str(value)[:40]} does not fit in a double")
    return float(value)


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{str(value)[:40]!r} is no {kind.__name__}")
    return value


def _writable(text: str) -> str:
    text.encode()  # raises UnicodeEncodeError, a ValueError, for half a surrogate pair, which JSON can escape
    return text
