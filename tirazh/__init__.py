"""tirazh: offline batch pipeline for GPT-3-class models with sparse attention.

`classify` and `generate` take the same settings as the command line (the names are the same) and return the
manifest; `load_pretrained` gives the model as a module. Names are loaded on first use: importing tirazh is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tirazh.jobs.classify import classify
    from tirazh.jobs.generate import generate
    from tirazh.model.load import load_pretrained

__version__ = "0.1.0"
__all__ = ["classify", "generate", "load_pretrained"]

_HOMES = {
    "classify": "tirazh.jobs.classify",
    "generate": "tirazh.jobs.generate",
    "load_pretrained": "tirazh.model.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tirazh' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
