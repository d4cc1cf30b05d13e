"""The rules of a filter step: quality filters, masks of personal data, and the search for duplicates.

They are prepared once on the driver, which checks everything; tasks receive them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tirazh.errors import RequestError
from tirazh.pipeline import schema
from tirazh.pipeline.earlier_output import find_earlier_output
from tirazh.pipeline.quality.contamination import EvaluationSet, evaluation_ngrams, split_against
from tirazh.pipeline.quality.dedup.config import DedupConfig, dedup_config
from tirazh.pipeline.quality.dedup.earlier import EarlierOutput, check_earlier
from tirazh.pipeline.quality.dedup.side_file import to_side_file
from tirazh.pipeline.quality.dedup.signatures import signatures
from tirazh.pipeline.quality.judge import QualityConfig, drop_reasons, mask_table, quality_config
from tirazh.pipeline.spec import FilterSpec, GenerateSpec
from tirazh.pipeline.storage.filesystem import Storage


@dataclass(frozen=True, slots=True)
class Judged:
    """The rows of a part with personal data masked, the reasons of each to drop it, and the number of masks by kind."""

    table: pa.Table
    reasons: list[list[str]]
    masked: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """`quality` and `dedup` are None where nothing of the kind is asked for. `against` are earlier outputs.

    `content` tells the rows that this step is compared with from others: it is part of the step's identity.
    """

    quality: QualityConfig | None
    dedup: DedupConfig | None
    against: tuple[EarlierOutput, ...] = ()
    content: tuple[str, ...] = ()
    masked_columns: tuple[str, ...] = ()

    @property
    def needs_all_parts(self) -> bool:
        """Whether a part can be written only when all parts are judged."""
        return self.dedup is not None

    def judge(self, table: pa.Table) -> Judged:
        """Mask and judge the rows of a part."""
        if self.quality is None:
            return Judged(table, [[] for _ in range(table.num_rows)], {})
        masked, counts = mask_table(table, self.quality)
        return Judged(masked, drop_reasons(masked, self.quality), counts)

    def signatures(self, judged: Judged, has_error: Sequence[bool]) -> bytes:
        """The side file with the signatures of the rows. Rows that are dropped already have none."""
        assert self.dedup is not None, "signatures are made for the search for duplicates"
        eligible = [not reasons and not failed for reasons, failed in zip(judged.reasons, has_error, strict=True)]
        return to_side_file(signatures(judged.table, self.dedup), self.dedup, eligible=np.array(eligible, np.bool_))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Settings:
    """What the libraries read of a spec: the settings of the filter step, and those of the generate step before it."""

    filters: Any
    pii: tuple[str, ...]
    dedup: Any
    prefix: str = ""
    schema: Any = None
    schema_column: str | None = None


def prepare_rules(
    spec: FilterSpec,
    columns: pa.Schema,
    storage: Storage,
    *,
    generate: GenerateSpec | None,
    text_column: str,
    prompt_column: str | None,
) -> Rules:
    """Check the settings of a filter step against the columns of the step before it, and read what it compares with.

    `generate` is the last generate step before it. Raises RequestError or InputError.
    """
    outputs, sets = split_against(spec.against, storage)
    if outputs and spec.dedup is None:
        raise RequestError(f"--against {outputs[0]} is an earlier output: add dedup: exact or dedup: near")
    evaluation = evaluation_ngrams(sets, storage)
    settings = _Settings(
        filters=spec.filters,
        pii=spec.pii,
        dedup=spec.dedup,
        prefix=generate.prefix if generate is not None else "",
        schema=generate.schema if generate is not None else None,
        schema_column=generate.schema_column if generate is not None else None,
    )
    quality = quality_config(
        settings, columns, text_column=text_column, prompt_column=prompt_column, evaluation=evaluation
    )
    dedup = dedup_config(_with_columns(settings, text_column), columns)
    against = tuple(found for uri in outputs if (found := find_earlier_output(uri, storage)) is not None)
    if dedup is not None:
        for earlier in against:
            check_earlier(earlier, storage, dedup)
    return Rules(
        quality=quality,
        dedup=dedup,
        against=against,
        content=(*(earlier.plan_id for earlier in against), *_digest(evaluation)),
        masked_columns=quality.masked_columns if quality is not None and quality.pii else (),
    )


def _with_columns(settings: _Settings, text_column: str) -> _Settings:
    """Compare the text column of the step, where `dedup` names no columns."""
    value = settings.dedup
    if text_column == settings.prefix + schema.COMPLETION or value is None:
        return settings
    mapping = {value: True} if isinstance(value, str) else dict(value)
    return replace(settings, dedup={"columns": [text_column]} | mapping)


def _digest(evaluation: EvaluationSet | None) -> tuple[str, ...]:
    return () if evaluation is None else (hashlib.sha256(evaluation.hashes.tobytes()).hexdigest()[:32],)
