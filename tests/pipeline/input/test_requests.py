"""How many requests the listing of an input takes in an object store: one a page, whatever the number of files."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import aiobotocore.client
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.seaweedfs import SeaweedServer
from tirazh.pipeline.input.listing.files import find_inputs
from tirazh.pipeline.storage.filesystem import Storage

_FILES = 1_200  # two pages of a listing
_MOST = 10


@pytest.fixture(scope="module")
def bucket(s3_server: SeaweedServer) -> str:
    """A bucket with many files in `many/`, three without a suffix in `hive/`, and names with wildcards."""
    uri, sink = s3_server.make_bucket("requests"), io.BytesIO()
    pq.write_table(pa.table({"text": ["x"]}), sink)
    keys = [f"news/many/part-{number:05}.parquet" for number in range(_FILES)]
    keys += [f"hive/00000{number}_0" for number in range(3)]
    keys += ["odd/a[1]*?.parquet", "odd/a1.parquet", "odd/d[1]/x.parquet", "odd/d1/x.parquet"]
    client = s3_server.client()

    def put(key: str) -> None:
        client.put_object(Bucket="requests", Key=key, Body=sink.getvalue())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, keys))
    return uri


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count the requests that are made in the block, by operation."""
    made = Counter[str]()
    call = aiobotocore.client.AioBaseClient._make_api_call

    async def count(self: Any, operation: str, arguments: Any) -> Any:
        made[operation] += 1
        return await call(self, operation, arguments)

    with monkeypatch.context() as patch:
        patch.setattr(aiobotocore.client.AioBaseClient, "_make_api_call", count)
        yield made


@pytest.mark.s3
@pytest.mark.parametrize(
    ("named", "files"),
    [
        ("news/many", _FILES),
        ("news/many/*.parquet", _FILES),
        ("news/many/part-*.parquet", _FILES),
        ("news/*/part-0000*.parquet", 10),
        ("news/**/*.parquet", _FILES),
        ("news", _FILES),
    ],
)
def test_a_listing_takes_one_request_a_page(
    named: str, files: int, bucket: str, s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(monkeypatch) as made:
        listing = find_inputs(Storage(s3_server.endpoint_url), [f"{bucket}/{named}"])
    assert len(listing.files) == files
    assert sum(made.values()) <= _MOST, made


@pytest.mark.s3
def test_files_without_a_suffix_are_read_by_a_pattern(
    bucket: str, s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(monkeypatch) as made:
        listing = find_inputs(Storage(s3_server.endpoint_url), [f"{bucket}/hive/*"])
    assert [file.key for file in listing.files] == ["000000_0", "000001_0", "000002_0"]
    assert made["GetObject"] == 3, "the first bytes of each file"


@pytest.mark.s3
@pytest.mark.parametrize("name", ["a[1]*?.parquet", "d[1]"])
def test_a_key_with_wildcards_is_that_key(name: str, bucket: str, s3_server: SeaweedServer) -> None:
    (file,) = find_inputs(Storage(s3_server.endpoint_url), [f"{bucket}/odd/{name}"]).files
    assert file.uri in (f"{bucket}/odd/{name}", f"{bucket}/odd/{name}/x.parquet")


@pytest.mark.s3
def test_a_directory_with_wildcards_is_removed_and_not_what_it_would_match(
    s3_server: SeaweedServer, bucket: str
) -> None:
    storage = Storage(s3_server.endpoint_url)
    for directory in ("out[1]", "out1"):
        storage.write(f"{bucket}/{directory}/a.parquet", b"x")
        storage.write(f"{bucket}/{directory}/b.parquet", b"x")
    storage.remove(f"{bucket}/out[1]/a.parquet")
    assert storage.names(f"{bucket}/out[1]") == {"b.parquet": 1}
    storage.remove(f"{bucket}/out[1]", recursive=True)
    assert storage.names(f"{bucket}/out[1]") == {}
    assert storage.names(f"{bucket}/out1") == {"a.parquet": 1, "b.parquet": 1}
