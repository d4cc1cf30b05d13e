"""Keeps secrets out of files and logs.

Addresses that contain a secret are refused before a job starts, and messages of libraries are redacted
before they are logged or become part of an error. Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

HIDDEN = "[hidden]"
# Query parameters of presigned URLs, SAS tokens and the like; their values give access to everyone.
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
# Names of variables that look like a secret but hold the path of one.
_PATH_SUFFIXES = ("GOOGLE_APPLICATION_CREDENTIALS", *("_PATH", "_FILE"))
_SHORTEST_SECRET = 6


def holds_secret(uri: str) -> bool:
    """Whether an address contains a password or a signature.

    A user name alone is no secret: Azure addresses have the form `abfs://container@account…`.
    """
    if "://" not in uri:
        return False
    try:
        split = urlsplit(uri)
    except ValueError:  # not a valid URI; the code that opens it reports that
        return bool(_LOGIN.search(uri)) or bool(_SECRET_PARAMETERS.search(uri))
    login = split.netloc.rpartition("@")[0]
    return ":" in login or bool(_SECRET_PARAMETERS.search(uri.partition("?")[2]))


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace secrets in `text` by "[hidden]".

    Secrets are logins and signatures in addresses, authorization headers, and the values of environment
    variables whose names say that they are secret.
    """
    for name, value in (os.environ if environment is None else environment).items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAMES.search(name) and not name.endswith(_PATH_SUFFIXES):
            text = text.replace(value, HIDDEN)
    text = _LOGIN.sub(rf"\1{HIDDEN}@", text)
    text = _SECRET_PARAMETERS.sub(rf"\1{HIDDEN}", text)
    text = _ACCOUNT_KEYS.sub(rf"\1{HIDDEN}", text)
    return _HEADERS.sub(rf"\1 {HIDDEN}", text)
