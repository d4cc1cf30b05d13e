"""Makes the crossing of a job from its settings: reads the files that `vary` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tirazh.errors import RequestError
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.crossing.declaration import MAX_ROWS, Declaration, FileColumn, parse_vary
from tirazh.pipeline.crossing.layouts import Draws, EveryCell, Layout
from tirazh.pipeline.crossing.value_files import read_values
from tirazh.pipeline.crossing.value_list import ValueList, make_list
from tirazh.pipeline.storage.filesystem import Storage, full_uri, is_remote

# Local lists up to these sizes are sent to a cluster within the job; longer ones by their path.
_MAX_SENT_VALUES = 1_000
_MAX_SENT_BYTES = 64 << 10


def load_crossing(
    vary: Mapping[str, Any],
    *,
    rows: int | None,
    per_cell: int | None,
    seed: int,
    limit: int | None,
    storage: Storage,
) -> Crossing:
    """Read the lists of `vary`. One of `rows` and `per_cell` is given.

    Raises RequestError for values that cannot be used, and for more rows than a job can have.
    """
    lists = tuple(_load(each, storage) for each in parse_vary(vary))
    layout: Layout = Draws(rows, seed) if rows is not None else EveryCell(per_cell or 1)
    crossing = Crossing(lists, layout)
    if min(crossing.num_rows, limit or MAX_ROWS + 1) > MAX_ROWS:
        raise RequestError(
            f"--vary and --per-cell give {crossing.num_rows:,} rows; at most {MAX_ROWS:,} are possible: "
            "give --rows to draw from the values"
        )
    return crossing


def files_of(vary: Any) -> list[str]:
    """The addresses of the files that `vary` names."""
    return [each.values.uri for each in parse_vary(vary) if isinstance(each.values, FileColumn)]


def send_small_lists(vary: Any, storage: Storage) -> Any:
    """`vary` for another machine: local files with up to 1,000 values and 64 KiB are replaced by their values.

    The paths of larger ones become absolute; they must be on a disk that the machines share. Raises RequestError.
    """
    return {each.name: _sent(each, vary[each.name], storage) for each in parse_vary(vary)}


def _load(declared: Declaration, storage: Storage) -> ValueList:
    if not isinstance(declared.values, FileColumn):
        assert not isinstance(declared.weights, str), "the declaration was checked"
        return make_list(declared.name, declared.values, declared.weights)
    column = declared.weights if isinstance(declared.weights, str) else None
    try:
        found = read_values(declared.values, storage, weights=column)
    except RequestError as error:
        raise type(error)(f"--vary, {declared.name}: {error}") from None
    weights = found.weights if column is not None else declared.weights
    assert not isinstance(weights, str), "a column was read"
    return make_list(declared.name, found.values, weights, at=found.place)


def _sent(declared: Declaration, written: Any, storage: Storage) -> Any:
    file = declared.values
    if not isinstance(file, FileColumn) or is_remote(file.uri):
        return written
    values = _load(declared, storage)
    if len(values) <= _MAX_SENT_VALUES and values.nbytes <= _MAX_SENT_BYTES:
        plain = values.values.to_pylist()
        return plain if values.weights is None else {"values": plain, "weights": values.weights.tolist()}
    path = full_uri(file.uri) + (f"#{file.column}" if file.column is not None else "")
    return path if isinstance(written, str) else {**written, "values": path}
