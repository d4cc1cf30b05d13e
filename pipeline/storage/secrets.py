"""Keeps secrets out of files and logs.

Addresses that contain a secret are refused before a job starts, and messages of libraries are redacted
before they are logged or become part of an error. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus, urlsplit

from tirazh.pipeline.storage.secret_names import SHORTEST_SECRET, secret_values

HIDDEN = "[hidden]"
# A user name that is none: `s3://anonymous@bucket` is read without credentials.
ANONYMOUS = "anonymous"
# A line of a secret of several lines is replaced by itself, too, if it is at least this long.
_LONG_LINE = 16

# Keys and tokens that are recognised by their form alone. All expressions here take linear time: a log has megabytes.
_TOKENS = re.compile(
    r"""(?x)
    -----BEGIN\ [A-Z0-9 ]{0,40}PRIVATE\ KEY(?:\ BLOCK)?-----.*?(?:-----END\ [A-Z0-9 ]{0,40}KEY(?:\ BLOCK)?-----|\Z)
    | \b(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}\b                   # AWS
    | \bgh[pousr]_[A-Za-z0-9]{20,}                                        # GitHub
    | \bgithub_pat_[A-Za-z0-9_]{20,}
    | \bgl(?:pat|dt|rt|cbt|ptt|soat)-[A-Za-z0-9_-]{16,}                   # GitLab
    | \bxox[a-z]-[A-Za-z0-9-]{10,} | \bxapp-[A-Za-z0-9-]{10,}             # Slack
    | hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]+
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)*      # JWT
    | \bhf_[A-Za-z0-9]{20,}                                               # Hugging Face
    | \bsk-[A-Za-z0-9_-]{20,} | \b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}    # OpenAI, Anthropic, Stripe
    | \bAIza[A-Za-z0-9_-]{30,} | \bya29\.[A-Za-z0-9_-]{16,} | \bGOCSPX-[A-Za-z0-9_-]{16,}  # Google
    | \bnpm_[A-Za-z0-9]{30,} | \bpypi-[A-Za-z0-9_-]{30,} | \bdckr_pat_[A-Za-z0-9_-]{16,}
    | \bdapi[0-9a-f]{32} | \bdop_v1_[0-9a-f]{32,} | \bhvs\.[A-Za-z0-9_-]{16,}
    """,
    re.DOTALL,
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/-]{16,}=*")
# Query parameters of presigned URLs, SAS tokens and the like; their values give access to everyone.
_PARAMETERS = re.compile(
    r"(?i)\b((?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|sas"
    r"|awsaccesskeyid|access_?token|auth_?token|token|password|passwd|secret|api_?key|key)=)[^&\s\"'<>]+"
)
# The parts of connection strings: `AccountName=a;AccountKey=…`.
_CONNECTION = re.compile(
    r"(?i)\b((?:Account|SharedAccess|Shared_?Secret|Access|Primary|Secondary)Key\s*=|SharedAccessSignature\s*="
    r"|[;?&]\s*(?:password|pwd)\s*=)[^;&\s\"']+"
)
# `"private_key": "…"` of a JSON file, `aws_secret_access_key = …` of an INI file, `password: …` of YAML.
_FIELDS = re.compile(
    r"(?i)((?:password|passwd|passphrase|secret|private[_-]?key|secret[_-]?(?:access[_-]?)?key|api[_-]?key"
    r"|access[_-]?token|refresh[_-]?token|auth[_-]?token|session[_-]?token|client[_-]?secret|account[_-]?key)"
    r"\\?[\"']?\s*[:=]\s*)(\\?\"(?:[^\"\\]|\\.){6,}\"|'[^']{6,}'|[^\s\"'<>,;&{}()\[\]]{6,})"
)
# A login in an address. Its password may hold a slash; a number before the slash is a port.
_LOGIN = re.compile(
    rf"(\w[\w+.-]{{0,15}}://)(?!{ANONYMOUS}@)"
    r"(?:[^/\s\"'<>@\[]{0,200}:(?!\d+/)[^\s\"'<>@]{0,200}|[^/\s\"'<>@]{0,200})@"
)
# A login before `host:port`, without a scheme.
_HOST_LOGIN = re.compile(r"(?<![\w/.-])[\w.-]{1,64}:[^\s/@:\"']{1,200}@(?=[\w.-]{1,200}:\d)")
_BARE_LOGIN = re.compile(r"[^/\s@:]+:[^/\s@]+@\S")
_HEADERS = re.compile(r"(?i)((?:authorization|x-amz-security-token|x-ms-copy-source-authorization)['\"]?\s*[:=]).*")
_COOKIES = re.compile(r"(?i)\b((?:set-)?cookie['\"]?:\s*).*")
# Schemes whose addresses have the form `abfs://container@account…`: a name before the @ is no secret.
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs", "az")


def holds_secret(uri: str) -> bool:
    """Whether an address contains a login, a password, a signature, a key, a token or a connection string."""
    if _TOKENS.search(uri) or _CONNECTION.search(uri):
        return True
    if "://" not in uri:
        return bool(_BARE_LOGIN.match(uri))
    try:
        split = urlsplit(uri)
    except ValueError:  # not a valid URI; the code that opens it reports that
        return bool(_LOGIN.search(uri)) or bool(_PARAMETERS.search(uri))
    login = split.netloc.rpartition("@")[0]
    has_password = ":" in login or bool(login not in ("", ANONYMOUS) and split.scheme not in _CONTAINER_SCHEMES)
    return has_password or bool(re.match(r"[^/\[]*:(?!\d+/)[^@]*@", uri.partition("://")[2])) or _in_parameters(uri)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace secrets in `text` by "[hidden]".

    Secrets are the values of environment variables whose names say that they are secret
    (`secret_names.py`), also quoted or encoded for a URL or JSON; logins and signatures in addresses;
    authorization headers; and keys and tokens that are known by their form.
    """
    for value in sorted(secret_values(environment), key=len, reverse=True):
        for form in _forms(value):
            text = text.replace(form, HIDDEN)
    return redact_forms(text)


def redact_forms(text: str) -> str:
    """Like `redact`, without the values of environment variables."""
    text = _TOKENS.sub(HIDDEN, text)
    text = _HEADERS.sub(rf"\1 {HIDDEN}", text)
    text = _COOKIES.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _LOGIN.sub(rf"\1{HIDDEN}@", text)
    text = _HOST_LOGIN.sub(f"{HIDDEN}@", text)
    text = _CONNECTION.sub(rf"\1{HIDDEN}", text)
    text = _FIELDS.sub(rf"\1{HIDDEN}", text)
    return _PARAMETERS.sub(rf"\1{HIDDEN}", text)


def without_login(uri: str) -> str:
    """Return an address without user name and password, also where they hold characters that an address may not."""
    return _LOGIN.sub(r"\1", uri) if "://" in uri else uri[_login_length(uri) :]


def _login_length(uri: str) -> int:
    return uri.rindex("@") + 1 if _BARE_LOGIN.match(uri) else 0


def _in_parameters(uri: str) -> bool:
    return bool(_PARAMETERS.search(uri.partition("?")[2])) or bool(_PARAMETERS.search(uri.partition("#")[2]))


def _forms(value: str) -> Iterator[str]:
    """Yield a secret as messages show it: plain, on one line, as Python and JSON quote it, and encoded for URLs."""
    lines = [line.strip() for line in value.splitlines()] if "\n" in value else []
    forms = [
        value,
        value.strip(),
        " ".join(value.split()),
        repr(value)[1:-1],
        repr(value.encode())[2:-1] if value.isascii() else value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        *(line for line in lines if len(line) >= _LONG_LINE),
    ]
    yield from sorted({form for form in forms if len(form) >= SHORTEST_SECRET}, key=len, reverse=True)
