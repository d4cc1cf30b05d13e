"""Numbers of bytes as text, for sentences and progress. Standard library only."""

from __future__ import annotations


def bytes_text(count: float) -> str:
    """Format a number of bytes as `12.5 MiB` or `24.3 GiB`."""
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"
