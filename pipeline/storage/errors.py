"""Turns the exceptions of local disks and object-storage libraries into one sentence each.

The libraries are optional. Their exception classes are looked up only in modules that are already
loaded: a library that was never imported cannot raise anything.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from tirazh.errors import InputError, OutputError, RequestError, StorageError
from tirazh.pipeline.storage.secrets import ANONYMOUS, holds_secret, redact, redact_forms, without_login

Use = Literal["read", "write"]

# (module, class) of the base exceptions of the storage libraries.
_VENDOR_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "DefaultCredentials")
_LONGEST_REASON = 300
_NO_RESPONSE = ("Connect", "Timeout", "EndpointConnection", "ServiceRequest", "ConnectionClosed", "Transport", "DNS")


def show_uri(uri: str) -> str:
    """Return `uri` without user name, password, query, keys and tokens: safe to print, log and store.

    The name of access without credentials, `s3://anonymous@bucket`, is no secret and stays.
    """
    uri = without_login(uri)
    if "://" not in uri:
        return redact_forms(uri) if holds_secret(uri) else uri
    try:
        split = urlsplit(uri)
    except ValueError:  # not a valid URI, so a secret in it cannot be located
        return uri.partition("://")[0] + "://…"
    login, _, host = split.netloc.rpartition("@")
    place = f"{login}@{host}" if login == ANONYMOUS else host
    # Keys of objects may hold `?` and `#`; secrets come as parameters.
    more = re.search(r"[?#].*", uri, re.DOTALL) if split.scheme in (*_EXTRAS, "memory") else None
    end = more[0] if more is not None and not re.search(r"[?&#][\w.-]+=", more[0]) else ""
    return redact_forms(urlunsplit((split.scheme, place, split.path, "", "")) + end)


@contextmanager
def one_sentence(uri: str, use: Use) -> Iterator[None]:
    """Inside the block, replace exceptions by an InputError, OutputError or StorageError about `uri`."""
    try:
        yield
    except ImportError as error:
        raise _missing_extra(uri) from error
    except _known_errors() as error:
        if isinstance(error, (RequestError, StorageError)):
            raise
        raise _explain(error, uri, use) from error


def is_bucket_missing(error: FileNotFoundError, uri: str) -> bool:
    """Whether the bucket of `uri` does not exist, not just what is in it.

    fsspec raises FileNotFoundError for both; only the text differs, in which the path itself may hold such a word.
    """
    scheme, _, path = uri.partition("://")
    text = str(error).replace(path.rstrip("/"), "").lower()
    return scheme in (*_EXTRAS, "memory") and bool(path) and ("bucket" in text or "container" in text)


def _known_errors() -> tuple[type[Exception], ...]:
    found: list[Any] = [getattr(sys.modules.get(module), name, None) for module, name in _VENDOR_ERRORS]
    return (OSError, ValueError, RuntimeError, *(error for error in found if error is not None))


def _missing_extra(uri: str) -> RequestError:
    extra = _EXTRAS.get(uri.partition("://")[0], "s3")
    return RequestError(f"{show_uri(uri)} needs the {extra!r} extra: pip install 'tirazh[{extra}]'")


def _explain(error: BaseException, uri: str, use: Use) -> Exception:
    name, place = type(error).__name__, show_uri(uri)
    wrong_request = InputError if use == "read" else OutputError
    if isinstance(error, FileNotFoundError):
        if is_bucket_missing(error, uri):
            return wrong_request(f"{place}: the bucket does not exist")
        return wrong_request(f"{place} does not exist")
    if any(word in name for word in _NO_CREDENTIALS) or "credentials" in str(error).lower():
        return StorageError(f"{place}: the environment has no credentials, or they are invalid{_anonymous(uri, use)}")
    if isinstance(error, PermissionError) or name == "ClientAuthenticationError":
        return _refused(error, uri, use)
    if isinstance(error, (TimeoutError, ConnectionError)) or any(word in name for word in _NO_RESPONSE):
        return StorageError(
            f"{place}: the storage did not respond ({_reason(error)}); check the address and the network"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{place}: the disk is full")
    if isinstance(error, (NotADirectoryError, IsADirectoryError, FileExistsError)):
        return wrong_request(f"{place} cannot be used: {error.strerror or 'another file or directory has this name'}")
    return StorageError(f"{place} cannot be {'read' if use == 'read' else 'written'}: {_reason(error)}")


def _refused(error: BaseException, uri: str, use: Use) -> Exception:
    if "://" in uri:
        return StorageError(
            f"{show_uri(uri)}: the storage refused to {use} ({_reason(error)}); check the credentials"
            f"{_anonymous(uri, use)}"
        )
    wrong_request = InputError if use == "read" else OutputError
    return wrong_request(f"{uri} cannot be {'read' if use == 'read' else 'written'}: permission denied")


def _anonymous(uri: str, use: Use) -> str:
    """How to read a public bucket, if the address does not say so already."""
    scheme, _, rest = show_uri(uri).partition("://")
    if use != "read" or scheme not in ("s3", "gs") or rest.startswith(f"{ANONYMOUS}@"):
        return ""
    return f"; a public bucket is read as {scheme}://{ANONYMOUS}@{rest}"


def _reason(error: BaseException) -> str:
    """The library's message on one line, without secrets that it may contain, and not longer than 300 characters."""
    text = " ".join(redact(str(error)).split()) or type(error).__name__
    text = re.sub(r"\?[^\s\"']*", "", text)
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "…"
