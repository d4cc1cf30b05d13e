"""One updated line of progress in a terminal, which fits into any width.

Rows, share and remaining time always stay. What does not fit is dropped in a fixed order: the bar, and then
the facts from the last to the first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.text import Text

# Characters of the bar, with the space after it. A narrower one says nothing.
_WIDEST, _NARROWEST = 24, 8
_SEPARATOR = " · "
# Terminals that cannot move the cursor back, as rich sees it; Emacs and many CI systems set one of them.
_PLAIN_TERMINALS = ("", "dumb", "unknown")


@dataclass(frozen=True, kw_only=True)
class LineState:
    """What the line shows: done and total units (None: unknown), the time, and facts, the most important first.

    `waiting_for` is what a start waits for, empty otherwise.
    """

    done: int
    total: int | None
    time: str
    facts: tuple[str, ...] = ()
    waiting_for: str = ""


class LiveLine:
    """A line on a terminal that is drawn again when its state or the terminal's width changes."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._state = LineState(done=0, total=None, time="starting")
        self._spinner = Spinner("dots")
        # The line disappears at the end, and the summary takes its place.
        self._live: Live = Live(self, console=Console(file=stream), transient=True, refresh_per_second=4)
        self._live.start()

    def update(self, state: LineState) -> None:
        """Show another state at the next refresh, at most a quarter of a second later."""
        self._state = state

    def print_above(self, text: str) -> None:
        """Print a line of text above the progress line."""
        self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Draw the last state and remove the line."""
        self._live.refresh()
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        line = Text(no_wrap=True, overflow="crop", end="")
        # The last column stays free: some terminals begin a new line after it.
        bar, text = fit(self._state, options.max_width - 3)
        if not options.ascii_only:
            line.append_text(_as_text(self._spinner.render(console.get_time())))
            line.append(" ")
        if bar:
            self._append_bar(line, bar, has_color=not console.no_color and console.color_system is not None)
        line.append(text)
        yield line

    def _append_bar(self, line: Text, width: int, *, has_color: bool) -> None:
        total = self._state.total or 0
        full = min(width - 1, (width - 1) * self._state.done // total) if total else 0
        line.append("━" * full, style="bar.complete")
        # Without colours the rest is blank, as the two would look the same.
        line.append(("━" if has_color else " ") * (width - 1 - full), style="bar.back")
        line.append(" ")


def is_plain_terminal(stream: TextIO) -> bool:
    """Whether a line on this terminal cannot be drawn again."""
    return stream.isatty() and os.environ.get("TERM", "").lower() in _PLAIN_TERMINALS


def fit(state: LineState, width: int) -> tuple[int, str]:
    """Return the width of the bar (0: none) and the text after it, which together have at most `width` characters."""
    share = share_text(state.done, state.total)
    count = f"{state.done:,}/{state.total:,} {share}" if state.total else f"{state.done:,}"
    time = f"{state.time}, {waiting_text(state.waiting_for)}" if state.waiting_for else state.time
    for kept in range(len(state.facts), -1, -1):
        text = _SEPARATOR.join((count, time, *state.facts[:kept]))
        if len(text) <= width:
            left = width - len(text)
            return (min(left, _WIDEST) if left >= _NARROWEST and state.total else 0), text
    short = [time, f"{state.time}, {state.waiting_for}"] if state.waiting_for else []
    for text in (*(_SEPARATOR.join((share or count, each)) for each in (*short, state.time)), share or count):
        if len(text) <= width:
            return 0, text
    return 0, (share or count)[: max(0, width)]


def share_text(done: int, total: int | None) -> str:
    """The share in whole per cent, 100 % only where all is done; empty for an unknown total."""
    if not total:
        return ""
    return f"{min(round(100 * done / total), 100 if done >= total else 99)}%"


def waiting_text(waiting_for: str) -> str:
    """What a start waits for, as a phrase: `loading the model`, `waiting for Ray`."""
    return waiting_for if waiting_for.split()[0].endswith("ing") else f"waiting for {waiting_for}"


def _as_text(rendered: object) -> Text:
    from rich.text import Text

    return rendered if isinstance(rendered, Text) else Text(str(rendered))
