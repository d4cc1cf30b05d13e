"""Spellings of paths and addresses: right, or one sentence that says what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import full_uri
from tirazh.pipeline.storage.secrets import holds_secret


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("S3://bucket/Key/", "s3://bucket/Key"),
        ("s3a://bucket/key", "s3://bucket/key"),
        ("GCS://bucket", "gs://bucket"),
        ("s3://anonymous@bucket/key", "s3://anonymous@bucket/key"),
        ("file:/data/out", "/data/out"),
        ("file:///data/out", "/data/out"),
        ("FILE://localhost/data/out", "/data/out"),
        ("/data/day:1", "/data/day:1"),
    ],
)
def test_other_spellings_of_an_address_are_the_same_address(given: str, meant: str) -> None:
    assert full_uri(given) == meant


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("s3:/bucket/key", r"^s3:/bucket/key is neither a path .* nor an address; did you mean s3://bucket/key\?$"),
        ("s3:bucket/key", r"did you mean s3://bucket/key\?"),
        ("S3A:/bucket/key", r"did you mean s3://bucket/key\?"),
        ("gs:/bucket/*.parquet", r"did you mean gs://bucket/\*\.parquet\?"),
        ("s3:///bucket/key", r"s3:///bucket/key names no bucket; did you mean s3://bucket/key\?"),
        ("s3://", r"names no bucket; give one such as s3://bucket/path"),
        ("s3://anonymous@/key", r"names no bucket"),
        ("s3n://bucket/key", r"did you mean s3://bucket/key\?"),
        ("file://host/path", r"file://host/path names another machine; give a path of this machine such as /path"),
        ("file:path", r"no slash after its scheme; give a path of this machine such as \./path"),
        ("hdfs://host/path", r"the scheme hdfs:// is not supported; use local paths, s3://, gs:// and az://"),
        ("https://news.s3.eu-west-1.amazonaws.com/day/a.parquet", r"did you mean s3://news/day/a\.parquet\?"),
        ("https://s3.amazonaws.com/news/a.parquet", r"did you mean s3://news/a\.parquet\?"),
        ("https://storage.googleapis.com/news/a.parquet", r"did you mean gs://news/a\.parquet\?"),
    ],
)
def test_an_address_that_is_nearly_right_is_refused_with_the_right_one(given: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        full_uri(given)


def test_a_local_name_with_a_colon_is_a_local_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert full_uri("day:1/out") == f"{tmp_path}/day:1/out"
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "a").touch()
    assert full_uri("s3:/a") == f"{tmp_path}/s3:/a"


def test_the_characters_of_a_file_uri_are_decoded_unless_a_file_has_the_very_name(tmp_path: Path) -> None:
    (tmp_path / "a b").touch()
    assert full_uri(f"file://{tmp_path}/a%20b") == f"{tmp_path}/a b"
    (tmp_path / "a%20b").touch()
    assert full_uri(f"file://{tmp_path}/a%20b") == f"{tmp_path}/a%20b"


def test_a_secret_in_a_misspelled_address_is_not_shown() -> None:
    with pytest.raises(RequestError) as refused:
        full_uri("s3:/key:hunter22@bucket/a")
    assert "hunter22" not in str(refused.value)


@pytest.mark.parametrize(
    "uri", ["s3://anonymous@bucket/k", "s3://bucket/day?.parquet", "s3://bucket/[ab]*#1.parquet", "s3://b/?/x=1"]
)
def test_an_address_without_a_secret_is_shown_whole(uri: str) -> None:
    assert show_uri(uri) == uri
    assert not holds_secret(uri)


def test_a_password_of_anonymous_is_a_secret() -> None:
    assert holds_secret("s3://anonymous:pass-word@bucket/k")
    assert show_uri("s3://anonymous:pass-word@bucket/k") == "s3://bucket/k"
