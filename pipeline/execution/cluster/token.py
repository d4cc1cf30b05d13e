"""The token that Ray sends to a cluster, and what to tell the user when the cluster rejects it.

Standard library only. Ray 2.60 looks for a token in RAY_AUTH_TOKEN, then in the file of
RAY_AUTH_TOKEN_PATH, then in ~/.ray/auth_token. It sends the token only with RAY_AUTH_MODE=token;
`--address auto` needs no mode.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tirazh.errors import RequestError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


@dataclass(frozen=True, slots=True)
class ClusterToken:
    """`value` is None if there is no token; `source` says where it was found. Only sent if `is_sent`."""

    value: str | None
    source: str
    is_sent: bool

    def __repr__(self) -> str:
        return f"ClusterToken(source={self.source!r}, is_sent={self.is_sent})"


def find_token(*, is_auto: bool = False) -> ClusterToken:
    """Find the token where Ray looks for it. `is_auto`: the address is `auto`.

    Raises RequestError if RAY_AUTH_TOKEN_PATH names a file that is missing, empty or unreadable.
    """
    value, source = _stored_token()
    mode = os.environ.get(MODE)
    is_sent = value is not None and (mode == "token" if mode else is_auto)
    return ClusterToken(value, source, is_sent)


def rejection(address: str, token: ClusterToken) -> str:
    """The sentence for a cluster that has answered that a token is missing or wrong."""
    where = f"the cluster at {address}"
    if token.is_sent:
        return (
            f"{where} rejects the token of {token.source}: it is another cluster's; set {TOKEN} (or {TOKEN_PATH}) to "
            "the token that this cluster was started with"
        )
    if token.value is not None:
        return (
            f"{where} requires a token, and the one of {token.source} is sent only with {MODE}=token; set {MODE}=token"
        )
    return f"{where} requires a token: set {MODE}=token, and {TOKEN} or {TOKEN_PATH} (a file that holds the token)"


def _stored_token() -> tuple[str | None, str]:
    value = os.environ.get(TOKEN, "").strip()
    if value:
        return value, TOKEN
    named = os.environ.get(TOKEN_PATH)
    if named:
        return _read_named(named), f"{TOKEN_PATH} ({named})"
    default = Path(os.path.expanduser("~"), ".ray", "auth_token")  # Path.home() raises for a user without one
    try:
        return default.read_text(encoding="utf-8").strip() or None, str(default)
    except (OSError, ValueError):
        return None, str(default)


def _read_named(path: str) -> str:
    try:
        value = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise RequestError(f"{TOKEN_PATH} names {path}, and there is no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise RequestError(f"{TOKEN_PATH} names {path}, which cannot be read ({reason})") from None
    if not value:
        raise RequestError(f"{TOKEN_PATH} names {path}, which is empty")
    return value
