"""Training sequences are read from disk as they were written; a damaged store is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import CheckpointError
from tirazh.model.training.sequence_store import SequenceStore, StoreWriter


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1, max_size=9))
def test_documents_are_read_back(tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]]) -> None:
    folder = tmp_path_factory.mktemp("store")
    with StoreWriter(folder) as writer:
        sequences = []
        for tokens in documents:
            start = sum(writer.lengths)
            writer.add(tokens, [number % 3 for number in range(len(tokens))])
            sequences.append([(start, start + len(tokens))])
        writer.finish(sequences, skipped=3)
    store = SequenceStore(folder)
    assert len(store) == len(documents)
    assert store.facts["skipped"] == 3
    assert store.num_targets(range(len(store))).tolist() == [len(tokens) - 1 for tokens in documents]
    for index, expected in enumerate(documents):
        tokens, roles = store.sequence(index)
        assert tokens.tolist() == expected
        assert roles.tolist() == [number % 3 for number in range(len(expected))]


def test_a_sequence_joins_spans_of_several_documents(tmp_path: Path) -> None:
    with StoreWriter(tmp_path) as writer:
        writer.add([1, 2, 3], [0, 1, 2])
        writer.add([4, 5], [1, 1])
        writer.finish([[(3, 5), (1, 3)]])
    store = SequenceStore(tmp_path)
    ((tokens, roles),) = store.texts(0)
    assert (tokens.tolist(), roles.tolist()) == ([4, 5, 2, 3], [1, 1, 1, 2])
    assert store.num_targets([0]).tolist() == [3]


def test_the_spans_of_a_packed_sequence_are_texts_of_their_own(tmp_path: Path) -> None:
    with StoreWriter(tmp_path) as writer:
        writer.add([1, 2, 3], [0, 1, 2])
        writer.add([4, 5], [1, 1])
        writer.finish([[(3, 5), (0, 3)]], packed=True)
    store = SequenceStore(tmp_path)
    assert [(tokens.tolist(), roles.tolist()) for tokens, roles in store.texts(0)] == [
        ([4, 5], [1, 1]),
        ([1, 2, 3], [0, 1, 2]),
    ]
    assert store.num_targets([0]).tolist() == [3]


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    """Format 1 did not say whether spans are joined, so its sequences could be taken for others."""
    with StoreWriter(tmp_path) as writer:
        writer.add([1, 2, 3], [0, 1, 2])
        writer.finish([[(0, 3)]])
    meta = tmp_path / "store.json"
    meta.write_text(meta.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(CheckpointError, match="of another version; remove that directory"):
        SequenceStore(tmp_path)


@pytest.mark.parametrize("name", ["store.json", "tokens.bin", "roles.bin", "pieces.npy", "offsets.npy"])
def test_a_truncated_store_is_refused(name: str, tmp_path: Path) -> None:
    with StoreWriter(tmp_path) as writer:
        writer.add(range(9), [1] * 9)
        writer.finish([[(0, 9)]])
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        SequenceStore(tmp_path)
