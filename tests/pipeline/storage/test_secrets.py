"""Addresses and messages contain no password, no signature and no key."""

from __future__ import annotations

import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.spec import ADDRESSES, ClassifySpec
from tirazh.pipeline.storage.errors import one_sentence, show_uri
from tirazh.pipeline.storage.secrets import holds_secret, redact

SECRETS = [
    "s3://AKIA:hunter2@bucket/news",
    "https://me:hunter2@minio:9000",
    "ray://me:hunter2@head:10001",
    "https://bucket.s3.amazonaws.com/x?X-Amz-Algorithm=AWS4&X-Amz-Signature=hunter2",
    "https://bucket/x?X-Amz-Security-Token=hunter2",
    "https://storage.googleapis.com/b/x?X-Goog-Signature=hunter2",
    "https://account.blob.core.windows.net/c/x?sv=2024&sig=hunter2",
    "az://container/x?sv=2024-01-01&se=2030&sig=hunter2%3D",
    "http://head:8265/?token=hunter2",
    "http://[::1?sig=hunter2",
]
PLAIN = [
    "s3://bucket/date=2026-11-23/*.parquet",
    "s3://bucket/a?.parquet",
    "gs://bucket/x",
    "abfs://container@account.dfs.core.windows.net/x",
    "http://minio:9000",
    "/data/key=7/x.parquet",
    "/data/me:hunter2@host/x",
    "news?sig=/x.parquet",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_a_secret_in_an_address_is_detected_and_not_shown(uri: str) -> None:
    assert holds_secret(uri)
    assert "hunter2" not in show_uri(uri)
    assert "hunter2" not in redact(f"GET {uri} failed")


@pytest.mark.parametrize("uri", PLAIN)
def test_an_address_without_a_secret_is_accepted(uri: str) -> None:
    assert not holds_secret(uri)


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize("uri", SECRETS[:4])
def test_no_setting_accepts_an_address_with_a_secret(name: str, uri: str) -> None:
    good = {"input": ("a.parquet",), "output": "out", "labels": {"a": "a", "b": "b"}}
    with pytest.raises(RequestError, match="contains a password or a signature") as caught:
        ClassifySpec(**(good | {name: (uri,) if name == "input" else uri}))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/20261124, Signature=hunter2",
        "headers {'X-Amz-Security-Token': 'hunter2'}",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hunter2==;BlobEndpoint=x",
        "SharedAccessSignature=hunter2",
        "retrying https://me:hunter2@proxy:3128 ...",
        "the key is planted-hunter2-key, and planted-hunter2-key again",
    ],
)
def test_secrets_in_messages_of_libraries_are_redacted(text: str) -> None:
    assert "hunter2" not in redact(text, {"MY_API_KEY": "planted-hunter2-key", "HOME": "/root"})


def test_a_text_without_secrets_is_unchanged() -> None:
    text = "rows 1–7 of /data/news.parquet: the column 'text' is null (key=7); see http://head:8265/x?page=2"
    environment = {"TOKENIZERS_PARALLELISM": "news.parquet", "X_TOKEN_FILE": "/data/news", "A_TOKEN": "true"}
    assert redact(text, environment).replace("key=[hidden]", "key=7);") == text


def test_secrets_in_the_error_of_a_library_are_redacted() -> None:
    with pytest.raises(Exception, match="cannot be read") as caught, one_sentence("s3://b/x", "read"):
        raise ValueError("https://b/x?X-Amz-Signature=hunter2 said: AccountKey=hunter2;")
    assert "hunter2" not in str(caught.value)
