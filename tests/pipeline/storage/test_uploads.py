"""Files of this machine in an object store (SeaweedFS), and names that look like an error."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from tests.seaweedfs import SeaweedServer
from tirazh.errors import InputError, OutputError
from tirazh.pipeline.storage.filesystem import Storage


@pytest.mark.s3
def test_a_bucket_or_a_path_may_have_the_word_bucket_in_its_name(s3_server: SeaweedServer) -> None:
    """fsspec's error for what is not there holds the path."""
    storage, bucket = Storage(s3_server.endpoint_url), s3_server.make_bucket("my-bucket")
    assert storage.names(f"{bucket}/container/none") == {}
    with pytest.raises(InputError, match="s3://my-bucket/container/none does not exist"):
        storage.read(f"{bucket}/container/none")
    with pytest.raises(OutputError, match="s3://no-such-bucket/container: the bucket does not exist"):
        storage.write("s3://no-such-bucket/container", b"")


@pytest.mark.s3
@pytest.mark.parametrize("size", [0, 10, (120 << 20) + 1])
def test_a_file_of_this_machine_is_uploaded_whole(s3_server: SeaweedServer, tmp_path: Path, size: int) -> None:
    """The largest one goes in several requests."""
    storage, bucket = Storage(s3_server.endpoint_url), s3_server.make_bucket(f"uploads-{uuid4().hex[:12]}")
    path = tmp_path / "file.bin"
    path.write_bytes((bytes(range(256)) * (size // 256 + 1))[:size])
    for _ in range(2):  # it replaces what is there
        storage.upload(str(path), f"{bucket}/file.bin")
        assert storage.read(f"{bucket}/file.bin") == path.read_bytes()
