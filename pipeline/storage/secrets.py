"""Keeps secrets out of what is written and printed: addresses that carry one are refused before anything begins, and
texts of other people's libraries are cleaned before they go to a log or into an error.

Used by `spec.py`, `storage/errors.py` and, for logs and tracebacks, by `jobs`. Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

HIDDEN = "[hidden]"
# Query parameters of presigned URLs, SAS tokens and their like; what follows them lets anybody in.
_SECRET_PARAMETERS = re.compile(
    r"(?i)\b((?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|sas"
    r"|awsaccesskeyid|access_?token|auth_?token|token|password|secret|api_?key|key)=)[^&\s\"'<>]+"
)
_LOGIN = re.compile(r"(\w[\w+.-]*://)[^/\s\"'@]*@")
_HEADERS = re.compile(r"(?i)((?:authorization|x-amz-security-token|x-ms-copy-source-authorization)['\"]?\s*[:=]).*")
_ACCOUNT_KEYS = re.compile(r"(?i)\b((?:AccountKey|SharedAccessSignature)=)[^;\s\"']+")
_SECRET_NAMES = re.compile(
    r"(?i)(^|_)(secrets?|tokens?|password|passwd|credentials?|connection_string|sas|(access|account|api)_?key)(_|$)"
)
# Named like a secret, and only the way to one.
_PLACES = ("GOOGLE_APPLICATION_CREDENTIALS", *("_PATH", "_FILE"))
_SHORTEST_SECRET = 6


def holds_secret(uri: str) -> bool:
    """Whether an address carries a password, or a signature that is as good as one. A user's name alone is none:
    `abfs://container@account…` is how Azure spells a place."""
    if "://" not in uri:
        return False
    try:
        split = urlsplit(uri)
    except ValueError:  # an address that is none is told so by whoever needs it
        return bool(_LOGIN.search(uri)) or bool(_SECRET_PARAMETERS.search(uri))
    login = split.netloc.rpartition("@")[0]
    return ":" in login or bool(_SECRET_PARAMETERS.search(uri.partition("?")[2]))


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` with logins and signatures in addresses, authorization headers, and the values of environment variables
    that are secret by their names, replaced by "[hidden]"."""
    for name, value in (os.environ if environment is None else environment).items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAMES.search(name) and not name.endswith(_PLACES):
            text = text.replace(value, HIDDEN)
    text = _LOGIN.sub(rf"\1{HIDDEN}@", text)
    text = _SECRET_PARAMETERS.sub(rf"\1{HIDDEN}", text)
    text = _ACCOUNT_KEYS.sub(rf"\1{HIDDEN}", text)
    return _HEADERS.sub(rf"\1 {HIDDEN}", text)
