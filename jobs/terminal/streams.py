"""The standard streams of the command: none is missing, and writing to one never ends a job.

A daemon or `ssh host 'tirazh … <&- >&- 2>&-'` starts the command without them, the disk of a log may be full,
and the reader of a pipe may have gone away. A job is run all the same.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDERR = 2
# Characters that tirazh itself prints, for terminals without Unicode. Data is written as escapes.
_PLAIN_SIGNS = {"·": "|", "–": "-", "—": "-", "━": "=", "…": "...", "→": "->", "×": "x"}
_ERRORS = "tirazh.plain_signs"
_STREAMS = ((0, "stdin"), (1, "stdout"), (STDERR, "stderr"))


def open_missing_streams() -> None:
    """Open /dev/null on each standard descriptor that is closed.

    Called before anything else is opened: the next file would get the descriptor of the missing stream, and what
    is printed would be written into that file.
    """
    for descriptor, name in _STREAMS:
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open_null("r" if descriptor == 0 else "w"))


def open_null(mode: Literal["r", "w"] = "w") -> TextIO:
    """A stream that takes everything and has nothing, in place of one that Python has set to None."""
    return open(os.devnull, mode, encoding="utf-8")


def keep_write_errors() -> None:
    """Replace sys.stdout and sys.stderr by streams that keep an error of writing instead of raising it.

    Characters that their encoding does not have are written as escapes.
    """
    for descriptor, name in _STREAMS[1:]:
        stream = getattr(sys, name)
        if _descriptor_of(stream) == descriptor:
            stream.flush()
            setattr(sys, name, tolerant_stream(descriptor, like=stream, goes_on=name == "stderr"))


def tolerant_stream(descriptor: int, *, like: TextIO, goes_on: bool = True) -> TextIO:
    """A text stream on `descriptor` with the encoding of `like`, which raises nothing when it cannot write.

    After an error the rest is dropped; with `goes_on`, the next text is tried again.
    """
    codecs.register_error(_ERRORS, _replace_signs)
    raw = _Output(descriptor, goes_on=goes_on)
    buffer = io.BufferedWriter(raw)
    is_unbuffered = bool(getattr(like, "write_through", False))
    return io.TextIOWrapper(
        buffer,
        encoding=like.encoding or "utf-8",
        errors=_ERRORS,
        line_buffering=is_unbuffered or goes_on or raw.isatty(),
        write_through=is_unbuffered,
    )


def write_error(stream: TextIO) -> OSError | None:
    """Flush the stream, and return the first error of writing to it. A reader that has gone away is one."""
    stream.flush()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.error if isinstance(raw, _Output) else None


class _Output(io.RawIOBase):
    """A descriptor whose errors of writing are kept. `error` is the first one."""

    def __init__(self, descriptor: int, *, goes_on: bool) -> None:
        self._descriptor = descriptor
        self._goes_on = goes_on
        self.error: OSError | None = None

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of `data`, and return its length, as if it had been written."""
        left = memoryview(data).cast("B")
        length = len(left)
        if self.error is None or self._goes_on:
            try:
                while left:
                    left = left[self._write_some(left) :]
            except OSError as error:
                self.error = self.error or error
        return length

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Another program that shares the terminal or pipe has set it to non-blocking.
            select.select((), (self._descriptor,), ())
            return 0
        except OSError as error:
            if error.errno != errno.EINTR:
                raise
            return 0


def _descriptor_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _replace_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    escaped = (_PLAIN_SIGNS.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in missing)
    return "".join(escaped), error.end
