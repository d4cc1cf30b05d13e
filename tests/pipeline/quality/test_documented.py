"""The documentation names every rule, preset, function and kind."""

from __future__ import annotations

import re

import yaml

from tests.conftest import REPOSITORY
from tirazh.pipeline.quality.arguments import RULES
from tirazh.pipeline.quality.expression import FUNCTIONS
from tirazh.pipeline.quality.pii import PII_KINDS
from tirazh.pipeline.quality.presets import PRESETS
from tirazh.pipeline.quality.rules import parse_filters
from tirazh.pipeline.spec import GenerateSpec

TEXT = (REPOSITORY / "docs/synthetic-data.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return re.split(r"\n#+ ", TEXT.partition(f"\n### {heading}\n")[2])[0]


def rows_of(text: str) -> list[list[str]]:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    return [[cell.strip("`") for cell in row] for row in rows]


def test_every_rule_is_documented_in_the_order_of_the_code() -> None:
    assert [row[0] for row in rows_of(section("Rules"))] == list(RULES)


def test_the_table_of_presets_is_that_of_the_code() -> None:
    table = rows_of(section("Presets"))
    for place, preset in enumerate(PRESETS, start=1):
        assert {row[0]: yaml.safe_load(row[place]) for row in table} == PRESETS[preset]


def test_every_function_of_expressions_and_every_kind_of_personal_data_is_documented() -> None:
    assert set(re.findall(r"`([A-Z_0-9]+)`", section("Rules"))) >= set(FUNCTIONS)
    assert {row[0] for row in rows_of(section("Personal data"))} == set(PII_KINDS)


def test_the_example_is_valid() -> None:
    example = yaml.safe_load(TEXT.partition("\n## Quality\n")[2].partition("```yaml\n")[2].partition("```")[0])
    spec = GenerateSpec(input=("in",), output="out", filters=example["filters"], pii=tuple(example["pii"]))
    reasons = [rule.reason for rule in parse_filters(spec.filters)]
    assert "max_uppercase" not in reasons
    assert reasons[-3:] == ["title.max_chars", "title.language", "weak_sport"]
