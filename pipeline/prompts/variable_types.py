"""The types of the columns that a template uses: texts where it prints them, lists where it goes over them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline.input.footers import is_binary
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.prompts.template_columns import written


def check_variable(template: PromptTemplate, name: str, arrow_type: pa.DataType, *, what: str = "column") -> None:
    """Raise InputError unless a value of `arrow_type` can be used as the template uses the variable `name`.

    `what` are the words before the name in the message.
    """
    loops = [loop for loop in template.loops if loop.column == name]
    if (name in template.printed or not loops) and not has_text(arrow_type):
        over = f"; go over its items with {{% for item in {written(name)} %}}" if _is_list(arrow_type) else ""
        raise InputError(f"--template uses {what} {name!r}, which holds {arrow_type}, not text{over}")
    if loops and not _is_list(arrow_type):
        raise InputError(f"--template goes over {what} {name!r}, which holds {arrow_type}, not a list")
    items: Any = arrow_type
    for field in dict.fromkeys(field for loop in loops for field in loop.fields):
        _check_field(name, field, items.value_type, what)


def _check_field(name: str, field: str | None, item: Any, what: str) -> None:
    if field is None:
        if not has_text(item):
            raise InputError(f"--template prints the items of {what} {name!r}, which are {item}, not text")
        return
    names = [each.name for each in item] if pa.types.is_struct(item) else []
    if field not in names:
        hint = did_you_mean(field, names) or (f"; they have {', '.join(names)}" if names else f"; they are {item}")
        raise InputError(f"--template uses {field!r} of the items of {what} {name!r}, which they do not have{hint}")
    if not has_text(item.field(field).type):
        raise InputError(
            f"--template uses {field!r} of the items of {what} {name!r}, which holds {item.field(field).type}, not text"
        )


def has_text(arrow_type: pa.DataType) -> bool:
    """Whether the values have a form as text that a user would expect."""
    if isinstance(arrow_type, pa.BaseExtensionType):
        return isinstance(arrow_type, pa.UuidType) or has_text(arrow_type.storage_type)
    values = arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
    return not (pa.types.is_nested(values) or is_binary(values))


def _is_list(arrow_type: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)
    return any(test(arrow_type) for test in (*tests, pa.types.is_large_list_view))
