"""Reading a public bucket without credentials, and what is said where that is the way or where it fails."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.seaweedfs import PUBLIC_BUCKET, SeaweedServer
from tirazh.errors import StorageError
from tirazh.pipeline.input.footers import read_footers
from tirazh.pipeline.input.listing.files import list_inputs
from tirazh.pipeline.storage.errors import one_sentence
from tirazh.pipeline.storage.filesystem import Storage


@pytest.fixture(scope="module")
def public(s3_server: SeaweedServer) -> str:
    """The URI of a directory with two Parquet files in a public bucket, without the scheme."""
    storage, sink = Storage(s3_server.endpoint_url), io.BytesIO()
    pq.write_table(pa.table({"text": ["x"]}), sink)
    s3_server.make_bucket(PUBLIC_BUCKET)
    for name in ("a.parquet", "b[1].parquet"):
        storage.write(f"s3://{PUBLIC_BUCKET}/day/{name}", sink.getvalue())
    return f"{PUBLIC_BUCKET}/day"


@pytest.fixture
def no_credentials(s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")


@pytest.mark.s3
@pytest.mark.usefixtures("no_credentials")
@pytest.mark.parametrize("name", ["", "/*.parquet", "/a.parquet", "/b[[]1].parquet", "/b[1].parquet"])
def test_a_public_bucket_is_read_without_credentials(name: str, public: str, s3_server: SeaweedServer) -> None:
    storage = Storage(f"{s3_server.endpoint_url}/")  # not the connection of the other tests
    files = list_inputs(storage, [f"s3://anonymous@{public}{name}"])
    assert files
    assert all(file.uri.startswith(f"s3://anonymous@{public}/") for file in files)
    assert all(storage.is_same(file) for file in files)
    assert [footer.rows for footer in read_footers(storage, files, text_columns=["text"])] == [1] * len(files)


@pytest.mark.s3
@pytest.mark.usefixtures("no_credentials")
def test_without_credentials_the_way_to_read_a_public_bucket_is_named(public: str, s3_server: SeaweedServer) -> None:
    with pytest.raises(StorageError) as refused:
        Storage(f"{s3_server.endpoint_url}/?").walk(f"s3://{public}")
    assert str(refused.value).endswith(f"; a public bucket is read as s3://anonymous@{public}")


@pytest.mark.s3
def test_a_private_bucket_stays_closed_without_credentials(s3_server: SeaweedServer) -> None:
    s3_server.make_bucket("private-news")
    with pytest.raises(StorageError, match=r"s3://anonymous@private-news/a: .*check the credentials$"):
        Storage(s3_server.endpoint_url).read("s3://anonymous@private-news/a")


def test_the_reason_of_a_library_is_not_cut_at_its_first_line() -> None:
    with pytest.raises(StorageError) as failed, one_sentence("s3://Bad_Bucket/k", "read"):
        raise ValueError("Parameter validation failed:\nInvalid bucket name:\n  it must match a rule" + " x" * 500)
    assert "Parameter validation failed: Invalid bucket name: it must match a rule" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert len(str(failed.value)) < 400
