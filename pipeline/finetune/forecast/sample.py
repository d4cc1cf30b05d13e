"""Measures the training data on a sample of rows: tokens, sequences, and rows that are skipped or cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError
from tirazh.pipeline.column_values import values_of
from tirazh.pipeline.finetune.corpus import InputFiles, Row, accounted, read_batches
from tirazh.pipeline.finetune.packing import PACKERS
from tirazh.pipeline.finetune.plan import FinetunePlan
from tirazh.pipeline.finetune.row_account import RowAccount
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS
from tirazh.pipeline.input.schemas.conform import conform
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

# All rows are read if there are no more than this; of more, some from places that are spread over all files.
_ALL_ROWS = 2_000
_PLACES, _ROWS_OF_PLACE = 16, 64

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSample:
    """The training data of a plan. `documents`, `tokens` and `sequences` are those of all `rows`, estimated unless
    `is_exact`; of the tokens, `trained_tokens` count in the loss. `account` and `longest` (in tokens) are those of the
    rows that were read. `sources` are the samples of the inputs that --input-weights mixes."""

    rows: int
    documents: int
    tokens: int
    trained_tokens: int
    sequences: int
    longest: int
    is_exact: bool
    account: RowAccount
    sources: tuple[CorpusSample, ...] = ()


def sample_corpus(plan: FinetunePlan) -> CorpusSample:
    """Make the documents of some rows as the training will, and estimate the rest.

    Raises InputError for an input that cannot be read.
    """
    account = RowAccount()
    if not plan.sources:
        return _sample(plan, plan.training, account, places=_PLACES)
    places = max(1, _PLACES // len(plan.sources))
    sources = [_sample(plan, each.inputs, account, places=places) for each in plan.sources]
    sums = {
        name: sum(getattr(each, name) for each in sources)
        for name in ("rows", "documents", "tokens", "trained_tokens", "sequences")
    }
    longest = max(each.longest for each in sources)
    is_exact = all(each.is_exact for each in sources)
    return CorpusSample(**sums, longest=longest, is_exact=is_exact, account=account, sources=tuple(sources))


def _sample(plan: FinetunePlan, inputs: InputFiles, account: RowAccount, *, places: int) -> CorpusSample:
    """Make the documents of some rows of `inputs`, at so many places if not of all; `account` gets the rows."""
    limit = plan.spec.limit
    rows = inputs.rows if limit is None else min(limit, inputs.rows)
    is_exact = rows <= _ALL_ROWS
    maker, before = plan.documents(), account.rows
    lengths: list[int] = []
    weights = np.array([plan.spec.prompt_loss_weight, 1.0, plan.spec.completion_loss_weight]) > 0
    trained = 0
    batches = (
        read_batches(inputs, plan.storage, maker.columns, limit)
        if is_exact
        else _spread(inputs, plan.storage, maker.columns, places)
    )
    for file, batch in batches:
        for document in accounted(maker.make(batch), account, place=show_uri(file.uri)):
            lengths.append(len(document.tokens))
            trained += int(weights[np.asarray(document.roles)].sum())
    read = account.rows - before
    scale = rows / read if read else 0.0
    sequences = len(PACKERS[plan.packing](lengths, range(len(lengths)), plan.seq_length)) if lengths else 0
    return CorpusSample(
        rows=rows,
        documents=round(len(lengths) * scale),
        tokens=round(sum(lengths) * scale),
        trained_tokens=round(trained * scale),
        sequences=round(sequences * scale),
        longest=max(lengths, default=0),
        is_exact=is_exact,
        account=account,
    )


def _spread(
    inputs: InputFiles, storage: Storage, columns: Sequence[str], places: int
) -> Iterator[tuple[StoredFile, list[Row]]]:
    """Yield some rows of row groups that are spread evenly over the files."""
    files = _evenly(inputs.files, places)
    wanted = pa.schema([inputs.columns.field(name) for name in columns])
    for file in files:
        with storage.open(file.uri) as opened:
            try:
                parquet = pq.ParquetFile(opened, **READ_OPTIONS)
                stored = [name for name in columns if name in parquet.schema_arrow.names]
                for group in _evenly(range(parquet.num_row_groups), max(1, places // len(files))):
                    batches = parquet.iter_batches(batch_size=_ROWS_OF_PLACE, row_groups=[group], columns=stored)
                    for batch in batches:
                        table = conform(pa.Table.from_batches([batch]), wanted, file, 0)
                        values = [values_of(table.column(name)) for name in columns]
                        yield file, [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
                        break
            except pa.ArrowException as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
                raise InputError(f"{show_uri(file.uri)} is damaged: {reason}") from error


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spread, the first one included."""
    number = min(count, len(items))
    return [items[index * len(items) // number] for index in range(number)]
