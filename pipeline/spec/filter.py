"""The spec of a filter step: it judges the rows of the step before it, and uses no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tirazh.pipeline.quality.dedup.config import check_dedup
from tirazh.pipeline.quality.pii import parse_kinds
from tirazh.pipeline.quality.rules import parse_filters
from tirazh.pipeline.settings import Spec, setting
from tirazh.pipeline.spec.generate import Dropped, GenerateSpec

QUALITY_SETTINGS = ("filters", "pii", "dedup", "against", "dropped")


def _as_in_generate(name: str) -> Any:
    declared = GenerateSpec.__dataclass_fields__[name]
    return field(default=declared.default, metadata=declared.metadata)


@dataclass(frozen=True, kw_only=True)
class FilterSpec(Spec):
    """Drop rows that fail rules or are duplicates. `input` and `output` are set by the job that the step belongs to."""

    text_column: str | None = setting(
        None, "column with the text to judge (default: the completion of the last generate step)", identity=True
    )
    prompt_column: str | None = setting(
        None, "column with the prompt, for filters that compare the text with it", identity=True
    )
    filters: Any = _as_in_generate("filters")  # noqa: RUF009 - a field() call
    pii: tuple[str, ...] = _as_in_generate("pii")
    dedup: Any = _as_in_generate("dedup")  # noqa: RUF009 - a field() call
    against: tuple[str, ...] = _as_in_generate("against")
    dropped: Dropped = _as_in_generate("dropped")  # noqa: RUF009

    def __post_init__(self) -> None:
        self.check_choices()
        parse_filters(self.filters)
        parse_kinds(self.pii)
        check_dedup(self.dedup)

    @property
    def kind(self) -> Literal["filter"]:
        return "filter"

    @property
    def has_rules(self) -> bool:
        """Whether any quality setting is given."""
        return bool(self.filters or self.pii or self.dedup or self.against)
