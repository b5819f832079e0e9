"""stdout and stderr that outlive their readers.

A reader that has gone (`| head -1`, a closed terminal, `>&-`) is nothing that a run should die of: what it would have
read is dropped, and the command ends with its own exit code. Whatever a stream's encoding cannot hold is written in
the nearest plain characters, and bytes of file names that are no text as they are.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import signal
import sys
from typing import Any

GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN)
PLAIN = {
    **{"…": "...", "·": "-", "•": "-", "×": "x", "–": "-", "—": "-", "→": "->", "°": " deg", "±": "+-", "²": "2"},
    **{"“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " ", "\u202f": " ", "│": "|", "─": "-", "█": "#"},
}


def nearest(e: UnicodeError) -> tuple[str | bytes, int]:
    """A codec's error handler: a byte that surrogateescape brought in goes out again, other characters as in PLAIN,
    the rest as escapes (\\u8611)."""
    if not isinstance(e, UnicodeEncodeError):
        raise e
    if "\udc80" <= e.object[e.start] <= "\udcff":
        return bytes([ord(e.object[e.start]) - 0xDC00]), e.start + 1
    c = e.object[e.start]
    return PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode(), e.start + 1


codecs.register_error("polymode", nearest)


class Stream(io.FileIO):
    """A file descriptor that takes everything: from when nobody reads it, for nothing. `forgiving`: from any failure,
    a full disk too."""

    def __init__(self, descriptor: int, forgiving: bool):
        super().__init__(descriptor, "w", closefd=False)
        self.forgiving = forgiving

    def write(self, data: Any, /) -> int:
        while True:
            try:
                if (written := super().write(data)) is not None:
                    return written
                select.select([], [self], [])  # somebody made the terminal non-blocking
            except OSError as e:
                if e.errno not in GONE and not self.forgiving:
                    raise
                drop(self.fileno())
                return len(memoryview(data).cast("B"))


def drop(descriptor: int) -> None:
    """Whatever is written to the descriptor from now on, by native code and children too, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def outlive() -> None:
    """Make this process's stdout and stderr such streams. Whoever has put streams of their own in their place (a test,
    a notebook) keeps them."""
    for descriptor in range(3):  # one that is closed would be taken by the first file that is opened
        try:
            os.fstat(descriptor)
        except OSError:
            drop(descriptor)
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        return
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        encoding = "utf-8" if old is None else old.encoding
        if os.name == "nt" and old is not None:  # a console there is no file of bytes
            old.reconfigure(errors="polymode")
            continue
        if old is not None:
            with contextlib.suppress(OSError):
                old.flush()
        lines = name == "stderr" or bool(old is not None and old.line_buffering)
        through = bool(old is not None and old.write_through)
        buffered = io.BufferedWriter(Stream(descriptor, forgiving=name == "stderr"))
        setattr(sys, name, io.TextIOWrapper(buffered, encoding, "polymode", None, lines, through))


def ignore_hangup() -> None:
    """Go on when the terminal is closed."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def flushed() -> OSError | None:
    """Write out what is buffered. Returns the error where stdout could not take it (its disk is full)."""
    try:
        sys.stdout.flush()
    except OSError as e:
        drop(1)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        return e
    return None
