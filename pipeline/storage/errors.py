"""Turns what local disks and the object-storage libraries raise into one sentence each.

Used by `storage/filesystem.py` alone. The libraries are optional, so their errors are looked up only once they are
loaded: an
error of a library that was never imported cannot arrive.
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
from tirazh.pipeline.storage.secrets import redact

Use = Literal["read", "write"]

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
_SILENCE = ("Connect", "Timeout", "EndpointConnection", "ServiceRequest", "ConnectionClosed", "Transport", "DNS")


def show_uri(uri: str) -> str:
    """`uri` without user name, password or query: safe to print, log and write down."""
    if "://" not in uri:
        return uri
    try:
        split = urlsplit(uri)
    except ValueError:  # no address at all, and what is secret in it cannot be told
        return uri.partition("://")[0] + "://…"
    return urlunsplit((split.scheme, split.netloc.rpartition("@")[2], split.path, "", ""))


@contextmanager
def one_sentence(uri: str, use: Use) -> Iterator[None]:
    """Raise what goes wrong inside as InputError, OutputError or StorageError about `uri`."""
    try:
        yield
    except ImportError as error:
        raise _missing_extra(uri) from error
    except _known_errors() as error:
        if isinstance(error, (RequestError, StorageError)):
            raise
        raise _explain(error, uri, use) from error


def _known_errors() -> tuple[type[Exception], ...]:
    found: list[Any] = [getattr(sys.modules.get(module), name, None) for module, name in _VENDOR_ERRORS]
    return (OSError, ValueError, RuntimeError, *(kind for kind in found if kind is not None))


def _missing_extra(uri: str) -> RequestError:
    extra = _EXTRAS.get(uri.partition("://")[0], "s3")
    return RequestError(f"{show_uri(uri)} needs the {extra!r} extra: pip install 'tirazh[{extra}]'")


def _explain(error: BaseException, uri: str, use: Use) -> Exception:
    name, place = type(error).__name__, show_uri(uri)
    wrong_request = InputError if use == "read" else OutputError
    if isinstance(error, FileNotFoundError):
        if "bucket" in str(error).lower() or "container" in str(error).lower():
            return wrong_request(f"{place}: there is no such bucket")
        return wrong_request(f"{place} does not exist")
    if any(word in name for word in _NO_CREDENTIALS) or "credentials" in str(error).lower():
        return StorageError(f"{place}: no credentials were found in the environment, or they cannot be used")
    if isinstance(error, PermissionError) or name == "ClientAuthenticationError":
        return _refused(error, uri, use)
    if isinstance(error, (TimeoutError, ConnectionError)) or any(word in name for word in _SILENCE):
        return StorageError(
            f"{place}: the storage did not answer ({_reason(error)}); check the address and the network"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{place}: the disk is full")
    if isinstance(error, (NotADirectoryError, IsADirectoryError, FileExistsError)):
        return wrong_request(f"{place} cannot be used: {error.strerror or 'something else is there'}")
    return StorageError(f"{place} cannot be {'read' if use == 'read' else 'written'}: {_reason(error)}")


def _refused(error: BaseException, uri: str, use: Use) -> Exception:
    if "://" in uri:
        return StorageError(f"{show_uri(uri)}: the storage refused to {use} ({_reason(error)}); check the credentials")
    wrong_request = InputError if use == "read" else OutputError
    return wrong_request(f"{uri} cannot be {'read' if use == 'read' else 'written'}: permission denied")


def _reason(error: BaseException) -> str:
    """The library's own first line, without what it may hold in secret."""
    text = redact((str(error) or type(error).__name__).strip().splitlines()[0])
    text = re.sub(r"\?[^\s\"']*", "", text)
    return text if len(text) <= 200 else text[:200] + "…"
