"""Python, C and Triton agree on the columns of the kernels' tables and on the fields of their arguments."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tirazh.model.attention import chunk_table
from tirazh.model.attention.backends.cpu import MergeArguments
from tirazh.model.attention.backends.cpu_decode import DecodeArguments
from tirazh.model.attention.backends.cpu_prefill import KernelArguments
from tirazh.model.kernels import build
from tirazh.model.kernels.tables import ChunkRow, DecodeRow, RunRow, TileRow, column
from tirazh.model.layers.add_norm import AddNormArguments
from tirazh.model.layers.int8_linear import Int8Arguments
from tirazh.model.layers.kernel_linear import LinearArguments

KERNELS = Path(build.__file__).parent


def without_comments(name: str) -> str:
    return re.sub(r"/\*.*?\*/", "", (KERNELS / name).read_text(), flags=re.DOTALL)


def struct_fields(source: str, name: str) -> list[str]:
    """The names of a structure's fields in order."""
    found = re.search(r"typedef struct \{([^}]*)\} " + re.escape(name) + ";", source)
    assert found
    declared = [re.sub(r"^\s*(const )?\w+ ", "", line) for line in found[1].split(";")]
    return [field.strip(" *\n") for line in declared for field in line.split(",") if field.strip()]


def test_the_c_enum_has_the_columns_of_a_chunk_row() -> None:
    found = re.search(r"enum \{([^}]*)\}", without_comments("prefill_attention.c"))
    assert found
    names = [name.strip().lower() for name in found[1].split(",")]
    assert names == [*ChunkRow._fields, "fields"]


@pytest.mark.parametrize(
    ("file", "name", "fields"),
    [
        ("prefill_attention.c", "NAME(arguments, VARIANT)", KernelArguments._fields_),
        ("decode_attention.c", "NAME(arguments, KIND)", DecodeArguments._fields_),
        ("merge_attention.c", "NAME(arguments, KIND)", MergeArguments._fields_),
        ("add_norm.c", "NAME(arguments, KIND)", AddNormArguments._fields_),
        ("linear.h", "linear_arguments", LinearArguments._fields_),
        ("linear_int8.c", "linear_arguments", Int8Arguments._fields_),
    ],
    ids=["prefill attention", "decode attention", "merge of attention", "residual and LayerNorm", "linear", "int8"],
)
def test_the_c_structure_has_the_fields_of_the_ctypes_structure(
    file: str, name: str, fields: tuple[tuple[str, type], ...]
) -> None:
    assert struct_fields(without_comments(file), name) == [field for field, _ in fields]


def test_python_and_c_pad_masks_alike() -> None:
    found = re.search(r"#define MASK_UNIT (\d+)", without_comments("prefill_attention.c"))
    assert found
    assert int(found[1]) == chunk_table.MASK_UNIT


def test_triton_names_every_column_that_it_reads() -> None:
    """By source, because Triton need not be installed: each constant is `column` of the table and field in its name."""
    tree = ast.parse((KERNELS / "attention_triton.py").read_text())
    tables = {"TILE": TileRow, "RUN": RunRow, "DECODE": DecodeRow}
    named: set[tuple[str, str]] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            prefix, _, field = node.targets[0].id.partition("_")
            if prefix in tables and field != "FIELDS":
                table = tables[prefix]
                expected = f"tl.constexpr(column({table.__name__}, '{field.lower()}'))"
                assert ast.unparse(node.value) == expected
                named.add((prefix, field.lower()))
    read = {(prefix, field) for prefix, table in tables.items() for field in table._fields}
    # The launcher passes the column of the new key's index: it depends on the kind of layer.
    assert read - named == {("DECODE", "dense_end"), ("DECODE", "sparse_end")}


def test_no_kernel_reads_a_table_by_a_number() -> None:
    text = (KERNELS / "attention_triton.py").read_text()
    assert re.findall(r"tl\.load\((?:tile|run|fields)(?: \+ \d+)?\)", text) == []


def test_a_column_that_does_not_exist_is_an_error() -> None:
    assert column(DecodeRow, "close_at") == 3
    with pytest.raises(ValueError, match="not in tuple"):
        column(DecodeRow, "kept")
