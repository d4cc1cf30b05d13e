"""Settings of Python with which Ray and other libraries do not work, and what is done about them."""

from __future__ import annotations

import os
import sys
import warnings

from tirazh.errors import RequestError

_OPTIMIZE, _WARNINGS = "PYTHONOPTIMIZE", "PYTHONWARNINGS"


def restart_with_docstrings() -> None:
    """Start the command again without PYTHONOPTIMIZE=2, which removes the docstrings that Ray reads."""
    if sys.flags.optimize > 1 and os.environ.pop(_OPTIMIZE, ""):
        os.execv(sys.executable, sys.orig_argv)


def require_docstrings() -> None:
    """Raise RequestError if Python runs with -OO."""
    if sys.flags.optimize > 1:
        raise RequestError(
            "Python runs with -OO or PYTHONOPTIMIZE=2, which removes the docstrings that Ray reads; start it without"
        )


def ignore_error_warnings() -> None:
    """Drop PYTHONWARNINGS=error, here and in Ray's workers: every warning of a library would be an exception."""
    warnings.filters[:] = [rule for rule in warnings.filters if rule[0] != "error"]  # type: ignore[index]
    given = os.environ.get(_WARNINGS, "")
    kept = ",".join(rule for rule in given.split(",") if not rule.strip().startswith("e"))
    if kept != given:
        os.environ[_WARNINGS] = kept
