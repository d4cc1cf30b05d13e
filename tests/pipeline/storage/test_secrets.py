"""Addresses and messages contain no password, no signature and no key."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import RequestError, StorageError
from tirazh.pipeline.spec import ADDRESSES, ClassifySpec
from tirazh.pipeline.storage.errors import one_sentence, show_uri
from tirazh.pipeline.storage.secret_names import _PLAIN_VALUES
from tirazh.pipeline.storage.secrets import HIDDEN, holds_secret, redact, redact_forms

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
    "https://me:hunter2/with-a-slash@minio:9000",
    "https://hunter2@minio:9000",
    "me:hunter2@head:6379",
    "https://account.blob.core.windows.net;AccountKey=hunter2==",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hunter2==;EndpointSuffix=core.windows.net",
    "BlobEndpoint=https://a.blob.core.windows.net;SharedAccessSignature=hunter2",
    "Server=tcp:db;User ID=me;Password=hunter2;",
]
TOKENS = [
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2_" * 9,
    "glpat-" + "a1-B2" * 4,
    "xoxb-123456789012-abcdefGHIJ",
    "hf_" + "aBcD" * 8,
    "sk-ant-" + "aB1_" * 8,
    "AIza" + "aB1-" * 9,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF123456_-x",
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
    "http://[::1]:9000/news@home",
    "http://head:8265/news@home",
    "s3://bucket/news@home.parquet",
    "/data/AccountKeys/tokens.parquet",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_a_secret_in_an_address_is_detected_and_not_shown(uri: str) -> None:
    assert holds_secret(uri)
    assert "hunter2" not in show_uri(uri)
    assert "hunter2" not in redact(f"GET {uri} failed")


@pytest.mark.parametrize("token", TOKENS)
def test_a_key_or_token_is_recognised_by_its_form(token: str) -> None:
    for uri in (f"https://minio/{token}", f"https://{token}@minio", f"s3://{token}/news", token):
        assert holds_secret(uri)
        assert token not in show_uri(uri)
    for text in (f"the server said: {token}.", f'{{"value": "{token}"}}', f"https://hooks/x/{token}?page=1"):
        assert token not in redact(text, {})


@pytest.mark.parametrize("uri", PLAIN)
def test_an_address_without_a_secret_is_accepted(uri: str) -> None:
    assert not holds_secret(uri)


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize("uri", [*SECRETS, *TOKENS[:3]])
def test_no_setting_accepts_an_address_with_a_secret(name: str, uri: str) -> None:
    good = {"input": ("a.parquet",), "output": "out", "labels": {"a": "a", "b": "b"}}
    with pytest.raises(RequestError, match="contains a password or a signature") as caught:
        ClassifySpec(**(good | {name: (uri,) if name == "input" else uri}))
    assert "hunter2" not in str(caught.value)
    assert not any(token in str(caught.value) for token in TOKENS)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/20261124, Signature=hunter2",
        "headers {'X-Amz-Security-Token': 'hunter2'}",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hunter2==;BlobEndpoint=x",
        "SharedAccessSignature=hunter2",
        "retrying https://me:hunter2@proxy:3128 ...",
        "Bearer hunter2hunter2hunter2",
        "Set-Cookie: session=hunter2; Path=/",
        "aws_secret_access_key = hunter2hunter2",
        '{"private_key": "hunter2hunter2", "type": "service_account"}',
        "{'password': 'hunter2'}",
        "password: hunter2hunter2",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
        "key: '-----BEGIN PRIVATE KEY-----\\nhunter2\\n-----END PRIVATE KEY-----\\n'",
        "POST https://hooks.slack.com/services/T000/B000/hunter2",
        "the key is planted-hunter2-key, and planted-hunter2-key again",
    ],
)
def test_secrets_in_messages_of_libraries_are_redacted(text: str) -> None:
    assert "hunter2" not in redact(text, {"MY_API_KEY": "planted-hunter2-key", "HOME": "/root"})


SECRET_NAMES = (
    *("PGPASSWORD", "MYSQL_PWD", "REDIS_AUTH", "PRIVATE_KEY", "GITHUB_PAT", "KAGGLE_KEY", "SNOWFLAKE_PASS", "SSHPASS"),
    *(
        "GPG_PASSPHRASE",
        "SENTRY_DSN",
        "LOGIN_COOKIE",
        "DB_PW",
        "AWS_SESSION_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
    ),
    *("AWS_ACCESS_KEY_ID", "AZURE_STORAGE_CONNECTION_STRING", "NPM_CONFIG__AUTH", "OPENAI_APIKEY", "my_secret_thing"),
    *("RAY_AUTH_TOKEN", "DOCKER_AUTH_CONFIG", "AUTH", "PASSWORD", "TOKENS", "npm.config.auth-token", "DJANGO_SESSION"),
)
PLAIN_NAMES = (
    *("SSH_AUTH_SOCK", "XDG_SESSION_TYPE", "XDG_SESSION_ID", "DESKTOP_SESSION", "PWD", "OLDPWD", "RAY_AUTH_MODE"),
    *("RAY_AUTH_TOKEN_PATH", "TOKENIZERS_PARALLELISM", "MAX_TOKENS", "GOOGLE_APPLICATION_CREDENTIALS", "X_TOKEN_FILE"),
    *("AWS_ROLE_SESSION_NAME", "PATH", "COMPASS_HOME", "MONKEY", "AUTHOR", "SSH_KEY_FILE", "KEYBOARD"),
)  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_the_value_of_a_variable_with_a_secret_name_is_hidden(name: str) -> None:
    assert redact("connecting with S3cr3t-Value!", {name: "S3cr3t-Value"}) == "connecting with [hidden]!"


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_the_value_of_a_variable_with_a_plain_name_is_shown(name: str) -> None:
    assert redact("the value is S3cr3t-Value", {name: "S3cr3t-Value"}) == "the value is S3cr3t-Value"


def test_a_harmless_value_of_a_secret_variable_stays_readable(tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    key.touch()
    environment = {"A_TOKEN": "true", "B_AUTH": "disabled", "C_KEY": "abc", "D_KEY": str(key), "E_PASS": "localhost"}
    text = f"disabled on localhost: it is true that abc reads {key}"
    assert redact(text, environment) == text


# Characters that Python, JSON and URLs quote are among them.
RANDOM_SECRETS = st.text(
    alphabet=st.one_of(
        st.characters(min_codepoint=33, max_codepoint=126), st.characters(min_codepoint=0x400, max_codepoint=0x44F)
    ),
    min_size=8,
    max_size=60,
).filter(lambda value: value.lower() not in _PLAIN_VALUES)  # common words are no secrets


def _shapes(secret: str) -> list[str]:
    """The secret as libraries write it."""
    return [
        secret,
        f"ValueError: cannot use {secret!r}",
        f"{{'headers': { ({'x': secret})!r}}}",
        json.dumps({"value": secret, "page": 1}),
        json.dumps({"value": secret}, ensure_ascii=False),
        f"https://host/x?page={quote(secret, safe='')}&n=1",
        f"https://host/x?page={quote_plus(secret)}",
        repr(RuntimeError(f"first\n{secret}\nlast")),
        f"a{secret}b\t{secret}",
    ]


@given(name=st.sampled_from(SECRET_NAMES), secret=RANDOM_SECRETS, other=RANDOM_SECRETS)
def test_no_random_secret_of_the_environment_is_left_in_a_message(name: str, secret: str, other: str) -> None:
    environment = {name: secret, "HOME": "/root", "OTHER_PASSWORD": other}
    for shape in _shapes(secret):
        shown = redact(f"job 7 failed after 12 s: {shape}; see the log", environment)
        for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe="")):
            assert form not in shown.replace(HIDDEN, "")
        assert shown.startswith("job 7 failed after 12 s: ") or secret[0] in "job 7 failed"


@given(secret=RANDOM_SECRETS)
def test_no_random_secret_of_the_environment_is_left_in_an_exception_of_the_storage(secret: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", secret)
        with pytest.raises(StorageError) as caught, one_sentence("s3://b/x", "read"):
            raise ValueError(f"the server refused {secret!r} of {{'user': {secret}}}")
    assert secret not in str(caught.value).replace(HIDDEN, "")


@given(first=st.text(max_size=300), second=st.text(max_size=300))
def test_any_text_is_redacted_without_an_error_and_twice_gives_the_same(first: str, second: str) -> None:
    once = redact(f"{first}://{second}:password={first}@{second}", {})
    assert redact(once, {}) == once or HIDDEN in once


@pytest.mark.parametrize("piece", ["a", "eyJ", "password", "://a:", "http://a:b", "-----BEGIN ", "secret = ", '\\"'])
def test_a_long_log_is_redacted_in_linear_time(piece: str) -> None:
    began = time.process_time()
    redact_forms(piece * (200_000 // len(piece)))
    assert time.process_time() - began < 10


def test_a_text_without_secrets_is_unchanged() -> None:
    text = "rows 1–7 of /data/news.parquet: the column 'text' is null (key=7); see http://head:8265/x?page=2"
    environment = {"TOKENIZERS_PARALLELISM": "news.parquet", "X_TOKEN_FILE": "/data/news", "A_TOKEN": "true"}
    assert redact(text, environment).replace("key=[hidden]", "key=7);") == text


def test_secrets_in_the_error_of_a_library_are_redacted() -> None:
    with pytest.raises(Exception, match="cannot be read") as caught, one_sentence("s3://b/x", "read"):
        raise ValueError("https://b/x?X-Amz-Signature=hunter2 said: AccountKey=hunter2;")
    assert "hunter2" not in str(caught.value)
