"""The options with which fsspec opens an object store: deadlines, the endpoint, access without credentials."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from tirazh.pipeline.storage.addresses import AS_ANONYMOUS

_CONNECT_TIMEOUT_S = 3
_READ_TIMEOUT_S = 30


def store_options(uri: str, endpoint_url: str | None) -> dict[str, Any]:
    """The options of the file system that `uri` is in, for `fsspec.filesystem`."""
    scheme, _, rest = uri.partition("://")
    is_anonymous = rest.startswith(AS_ANONYMOUS)
    if scheme == "s3":
        return _s3_options(endpoint_url) | ({"anon": True} if is_anonymous else {})
    if scheme == "gs":
        # gcsfs probes for a type of bucket that is not used here; without gRPC access the probe
        # hangs for a minute.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        endpoint = {"endpoint_url": endpoint_url} if endpoint_url else {}
        return endpoint | ({"token": "anon"} if is_anonymous else {})
    if scheme in ("az", "abfs", "abfss"):
        return _azure_options(endpoint_url)
    return {}


def _s3_options(endpoint_url: str | None) -> dict[str, Any]:
    # botocore and s3fs both retry. By default an unreachable address fails only after minutes, as
    # the retries multiply.
    config = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 3, "mode": "standard"},
        "request_checksum_calculation": "when_required",  # older S3-compatible servers refuse checksum trailers
        "response_checksum_validation": "when_required",
    }
    return {"config_kwargs": config} | ({"endpoint_url": endpoint_url} if endpoint_url else {})


def _azure_options(endpoint_url: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"connection_timeout": _CONNECT_TIMEOUT_S, "read_timeout": _READ_TIMEOUT_S}
    account, key = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"), os.environ.get("AZURE_STORAGE_ACCOUNT_KEY")
    if endpoint_url and account and key and "AZURE_STORAGE_CONNECTION_STRING" not in os.environ:
        scheme = urlsplit(endpoint_url).scheme
        options["connection_string"] = (
            f"DefaultEndpointsProtocol={scheme};AccountName={account};AccountKey={key};BlobEndpoint={endpoint_url};"
        )
    return options
