"""Which environment variables hold a secret, judged by their names and values. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache

SHORTEST_SECRET = 6
# A variable is secret if one of the words between the underscores of its name is one of these …
_SECRET_WORDS = frozenset(
    "SECRET SECRETS TOKEN TOKENS PASSWORD PASSWORDS PASSWD PASSPHRASE PASSCODE PASS CREDENTIAL CREDENTIALS CREDS SAS "
    "JWT BEARER APIKEY APIKEYS CONNSTR COOKIE COOKIES AUTHORIZATION HTPASSWD".split()
)
# … or ends with one of these, as in PGPASSWORD and SSHPASS …
_SECRET_ENDINGS = (
    *("PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "SSHPASS"),
    *("APIKEY", "ACCESSKEY", "SECRETKEY", "PRIVATEKEY", "ACCOUNTKEY"),
)
# … or if the last word is one of these (AUTH of REDIS_AUTH, but not of SSH_AUTH_SOCK or RAY_AUTH_MODE).
_SECRET_LAST_WORDS = frozenset("KEY KEYS KEY64 PWD PW PAT AUTH DSN SESSION LOGIN CERT PEM SIGNATURE".split())
_SECRET_PHRASES = ("CONNECTION_STRING", "CONN_STR", "ACCESS_KEY_ID", "AUTH_CONFIG", "AUTH_HEADER")
# The last word of a name that describes a secret and does not hold one.
_DESCRIPTIONS = frozenset(
    "PATH PATHS FILE FILES FILENAME DIR DIRECTORY FOLDER MODE TYPE SOCK SOCKET URL URI NAME ID HOST HOSTNAME PORT "
    "ENDPOINT ENABLED DISABLED EXPIRY EXPIRES EXPIRATION TTL TIMEOUT LENGTH LIMIT PARALLELISM VERSION FORMAT REGION "
    "PROVIDER ALGORITHM COUNT SIZE MAX MIN SCOPE SCOPES USER USERNAME AUDIENCE ISSUER COMMAND CMD HELPER".split()
)
# A number of tokens, or the session of a desktop, is no secret.
_COUNTS = frozenset("MAX MIN NUM NUMBER N COUNT LIMIT".split())
_PLAIN_NAMES = frozenset("DESKTOP_SESSION GDMSESSION PWD OLDPWD GOOGLE_APPLICATION_CREDENTIALS LOGIN SESSION".split())
_PLAIN_PREFIXES = ("XDG_", "KDE_", "GNOME_", "TOKENIZERS_")
# Values that say how something is done; replacing these words would make logs unreadable.
_PLAIN_VALUES = frozenset(
    "enabled disabled default required optional always anonymous bearer kerberos oauth2 public private localhost "
    "development production staging testing ubuntu wayland tirazh classify generate finetune system unknown".split()
)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret: PGPASSWORD, GITHUB_PAT, AWS_SECRET_ACCESS_KEY, …"""
    return _is_secret(name.upper().replace("-", "_").replace(".", "_"))


def secret_values(environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield the values of the environment variables that hold a secret, without values that are harmless words.

    `environment` None means the environment of this process.
    """
    for name, value in (os.environ if environment is None else environment).items():
        if len(value) >= SHORTEST_SECRET and is_secret_name(name) and not _is_plain(value):
            yield value


@lru_cache(maxsize=4096)
def _is_secret(name: str) -> bool:
    if name in _PLAIN_NAMES or name.startswith(_PLAIN_PREFIXES):
        return False
    if any(phrase in name for phrase in _SECRET_PHRASES):
        return not name.endswith(("_PATH", "_FILE"))
    words = [word for word in name.split("_") if word]
    if not words or words[-1] in _DESCRIPTIONS:
        return False
    if words[-1] == "TOKENS" and _COUNTS & set(words):
        return False
    return (
        words[-1] in _SECRET_LAST_WORDS
        or not _SECRET_WORDS.isdisjoint(words)
        or any(word.endswith(_SECRET_ENDINGS) for word in words)
    )


def _is_plain(value: str) -> bool:
    """Whether a value is a common word, or the path of a file that exists (and may hold the secret)."""
    if value.lower() in _PLAIN_VALUES:
        return True
    return value.startswith(("/", "~/", "./")) and os.path.exists(os.path.expanduser(value))
