"""Other spellings of paths and addresses: those that are right, and those that are nearly right."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from tirazh.errors import RequestError
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import ANONYMOUS

SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
# Other names of a scheme, for the same objects.
_ALIASES = {"s3a": "s3", "gcs": "gs"}
_OLD_SCHEMES = {"s3n": "s3", "wasb": "az", "wasbs": "az"}
_SHOWN_SCHEMES = "local paths, s3://, gs:// and az://"
_ADDRESS = re.compile(r"([a-zA-Z][\w+.-]*):(/*)(.*)", re.DOTALL)
# The host names of AWS and Google, with the bucket before them or behind them.
_WEB_ADDRESSES = (
    (re.compile(r"https?://([^/.]+)\.s3[.-][^/]*amazonaws\.com/(.*)"), "s3"),
    (re.compile(r"https?://s3[.-][^/]*amazonaws\.com/([^/]+)/(.*)"), "s3"),
    (re.compile(r"https?://storage\.(?:googleapis|cloud\.google)\.com/([^/]+)/(.*)"), "gs"),
)
# What asks for access without credentials: `s3://anonymous@bucket/key`.
AS_ANONYMOUS = f"{ANONYMOUS}@"


def local_path(uri: str) -> str | None:
    """The absolute path that `uri` means, or None if it is an address in an object store.

    Raises RequestError for an address of neither kind.
    """
    match = _ADDRESS.fullmatch(uri)
    if match is None or (len(match[2]) < 2 and os.path.lexists(uri)):
        return _absolute(uri)
    scheme, slashes, rest = match[1].lower(), match[2], match[3]
    if scheme == "file":
        return _path_of_file_uri(uri, slashes, rest)
    if scheme in SCHEMES:
        return None
    if scheme in _OLD_SCHEMES:
        hint = f"; did you mean {_OLD_SCHEMES[scheme]}://{rest}?"
        raise RequestError(f"{show_uri(uri)}: the scheme {match[1]}: is not supported{hint}")
    if len(slashes) < 2:  # a path with a colon in its first name
        return _absolute(uri)
    meant = _web_address(uri)
    hint = f"; did you mean {meant}?" if meant else f"; use {_SHOWN_SCHEMES}"
    raise RequestError(f"{show_uri(uri)}: the scheme {match[1]}:// is not supported{hint}")


def store_address(uri: str) -> str:
    """The address in an object store that `uri` means, `scheme://bucket/key` without a slash at the end.

    Raises RequestError for a wrong number of slashes and for an address without a bucket.
    """
    match = _ADDRESS.fullmatch(uri)
    assert match is not None, "local_path has found a scheme"
    scheme, slashes, rest = match[1].lower(), match[2], match[3].rstrip("/")
    scheme = _ALIASES.get(scheme, scheme)
    bucket = rest.removeprefix(AS_ANONYMOUS).partition("/")[0]
    shown, meant = f"{match[1]}:{slashes}{show_uri(rest)}", f"{scheme}://{show_uri(rest)}"
    if not bucket or len(slashes) > 2:
        hint = f"did you mean {meant}?" if bucket else f"give one such as {scheme}://bucket/path"
        raise RequestError(f"the address {shown} names no bucket; {hint}")
    if len(slashes) < 2:
        raise RequestError(f"{shown} is neither a path that exists nor an address; did you mean {meant}?")
    return f"{scheme}://{rest}"


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _path_of_file_uri(uri: str, slashes: str, rest: str) -> str:
    """The path of `file:/path`, `file:///path` or `file://localhost/path` (RFC 8089).

    `%20` and the like are decoded unless a file has that very name.
    """
    host, _, below = rest.partition("/") if slashes == "//" else ("", "", rest)
    if not slashes or host not in ("", "localhost"):
        hint = f"/{below}" if slashes else f"./{rest}"
        place = "names another machine" if slashes else "has no slash after its scheme"
        raise RequestError(f"{show_uri(uri)} {place}; give a path of this machine such as {hint}")
    path = os.path.abspath(f"/{below}")
    decoded = os.path.abspath(unquote(path))
    return decoded if os.path.lexists(decoded) and not os.path.lexists(path) else path


def _web_address(uri: str) -> str | None:
    for pattern, scheme in _WEB_ADDRESSES:
        if match := pattern.fullmatch(uri.partition("?")[0]):
            return f"{scheme}://{match[1]}/{match[2]}"
    return None
