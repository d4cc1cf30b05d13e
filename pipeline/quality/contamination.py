"""Compares texts with evaluation sets: does a text contain 13 words in a row that an evaluation set contains?

13-grams of words are those of GPT-3 (Brown et al. 2020, appendix C). Words are compared in lower case, without
punctuation, and with ё as е (`quality/words.py`). A text of fewer than 13 words cannot match.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, RequestError
from tirazh.pipeline.column_values import values_of
from tirazh.pipeline.input.footers import is_string
from tirazh.pipeline.input.listing.files import list_inputs
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS
from tirazh.pipeline.quality.characters import Characters, Hashes, Integers, Mask
from tirazh.pipeline.quality.words import Words, is_in
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri
from tirazh.pipeline.storage.patterns import has_wildcard

NGRAM = 13
MAX_NGRAMS = 20_000_000  # 320 MB
_BATCH_ROWS = 2_048
_RECORDS = "_tirazh"


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """The 13-grams of evaluation sets.

    `hashes` is uint64 [n-grams], sorted and unique; `rows` int64 [n-grams] has for each the first row that contains it,
    counted over all `files`, of which file i begins at row `first_rows[i]`.
    """

    hashes: Hashes
    rows: Integers
    files: tuple[str, ...]
    first_rows: tuple[int, ...]

    def contaminates(self, words: Words) -> Mask:
        """Whether each text contains one of the n-grams (bool [texts])."""
        grams = words.ngrams(NGRAM)
        found = np.zeros(words.num_texts, np.bool_)
        found[grams.rows[is_in(grams.hashes, self.hashes)]] = True
        return found

    def first_matches(self, texts: Sequence[str]) -> list[tuple[str, int] | None]:
        """For each text the file and the row (from 0) of the evaluation row that holds its first common n-gram."""
        grams = Words(Characters(texts)).ngrams(NGRAM)
        places = np.flatnonzero(is_in(grams.hashes, self.hashes))
        matches: list[tuple[str, int] | None] = [None] * len(texts)
        for place in places[::-1]:  # the first n-gram of a text comes last
            row = int(self.rows[np.searchsorted(self.hashes, grams.hashes[place])])
            file = int(np.searchsorted(self.first_rows, row, side="right")) - 1
            matches[int(grams.rows[place])] = (self.files[file], row - self.first_rows[file])
        return matches


def split_against(uris: Sequence[str], storage: Storage) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split `against` into (earlier outputs of tirazh, evaluation sets), as full URIs in the given order.

    A directory with a directory `_tirazh` is an output.
    """
    outputs = [uri for uri in map(full_uri, uris) if not uri.endswith(".parquet") and _is_output(uri, storage)]
    return tuple(outputs), tuple(uri for uri in map(full_uri, uris) if uri not in outputs)


def evaluation_ngrams(uris: Sequence[str], storage: Storage) -> EvaluationSet | None:
    """Read the 13-grams of all text columns of the evaluation sets; None without `uris`.

    `uris` are Parquet files, directories or globs. Raises InputError for one without files or text, and RequestError if
    none has a text of 13 words, or if there are more than `MAX_NGRAMS`.
    """
    if not uris:
        return None
    files = tuple(file.uri for file in list_inputs(storage, [full_uri(uri) for uri in uris]))
    hashes, rows, first_rows, total = [], [], [], 0
    for uri in files:
        first_rows.append(total)
        with storage.open(uri) as file:
            for texts in _texts_of(file, uri):
                for column in texts:
                    grams = Words(Characters(column)).ngrams(NGRAM)
                    hashes.append(grams.hashes)
                    rows.append(grams.rows + total)
                total += len(texts[0])
        if sum(map(len, hashes)) > MAX_NGRAMS:
            raise RequestError(
                f"--against: the evaluation sets up to {show_uri(uri)} have more than {MAX_NGRAMS:,} n-grams of "
                f"{NGRAM} words; give fewer or smaller ones"
            )
    if not sum(map(len, hashes)):
        raise RequestError(
            f"--against: no text of {', '.join(map(show_uri, uris))} has {NGRAM} words, so that nothing could be found"
        )
    found, first = np.unique(np.concatenate(hashes), return_index=True)
    return EvaluationSet(found, np.concatenate(rows)[first], files, tuple(first_rows))


def _is_output(uri: str, storage: Storage) -> bool:
    return not has_wildcard(uri) and _RECORDS in storage.directories(uri)


def _texts_of(file: IO[bytes], uri: str) -> Iterator[list[list[str]]]:
    """For each batch of rows the texts of every text column, at least of one."""
    try:
        parquet = pq.ParquetFile(file, **READ_OPTIONS)
        columns = [field.name for field in parquet.schema_arrow if is_string(field.type)]
        if not columns:
            raise InputError(f"--against: the evaluation set {show_uri(uri)} has no column of text")
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns):
            table = pa.Table.from_batches([batch])
            yield [[text if isinstance(text, str) else "" for text in values_of(column)] for column in table.columns]
    except (pa.ArrowException, EOFError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"--against: the evaluation set {show_uri(uri)} cannot be read ({first_line})") from error
