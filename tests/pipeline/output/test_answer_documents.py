"""The lines of code in docs/classification.md that read the probability of a label."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import pytest

from tests.pipeline.answered import finish_with_scores
from tirazh.pipeline.spec import ClassifySpec

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "classification.md"


def statements() -> list[ast.stmt]:
    section = DOCUMENT.read_text(encoding="utf-8").partition("### Reading the columns")[2]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return ast.parse(block).body


@pytest.mark.parametrize("top", [None, 2])
def test_each_line_gives_the_probability_of_a_label(
    top: int | None, write_input: Callable[..., Path], tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input("a.parquet", text=["a", "b", "c"])
    spec = ClassifySpec(
        **{"input": (str(tmp_path / "in"),), "output": str(tmp_path / "labelled"), "model": str(model_dir)},
        **{"labels": {"art": "art", "sport": "sport"}, "max_error_rate": 0.5, "top": top},
    )
    finish_with_scores(spec, [[math.log(0.25), math.log(0.75)], None, [math.log(0.5), math.log(0.5)]])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    imports, *lines = statements()
    names: dict[str, Any] = {}
    exec(compile(ast.Module([imports], []), "docs", "exec"), names)
    assert len(lines) == 5
    for line in lines:
        assert isinstance(line, ast.Expr)
        found = eval(compile(ast.Expression(line.value), "docs", "eval"), names)
        assert values_of(found) == [0.75, None, 0.5]


def values_of(found: Any) -> list[float | None]:
    """The values of a column that one of the five tools returned, None where there is none."""
    if isinstance(found, duckdb.DuckDBPyRelation):
        values = [row[0] for row in found.fetchall()]
    elif isinstance(found, datasets.Dataset):
        values = found["sport"][:]
    elif hasattr(found, "to_series"):
        values = found.to_series().to_list()
    else:
        values = list(found)
    return [None if value is None or np.isnan(value) else float(value) for value in values]
