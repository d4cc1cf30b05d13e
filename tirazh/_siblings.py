"""The four folders are installed under plain names; this turns a name taken by something else into one sentence."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

SIBLINGS = ("model", "actors", "pipeline", "jobs")


def check_siblings() -> None:
    """Raise ImportError when `model`, `actors`, `pipeline` or `jobs` would come from elsewhere than tirazh."""
    home = Path(__file__).resolve().parent.parent
    for name in SIBLINGS:
        spec = find_spec(name)
        found = None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent
        if found != home / name:
            raise ImportError(
                f"tirazh needs its own package {name!r} from {home}, but Python finds {found or 'none'}; "
                f"rename that {name!r}, or start Python in another directory"
            )
