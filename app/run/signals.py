"""Ctrl-C and SIGTERM as a question that a loop asks, instead of the end of the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(then: Callable[[int, bool], None] | None = None) -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM are noted; yields whether one came. `then(signal, again)` is called with each, `again` where
    it was not the first."""
    if threading.current_thread() is not threading.main_thread():  # a library's user: only the main thread hears them
        yield lambda: False
        return
    came = False

    def note(signum: int, frame: object) -> None:
        nonlocal came
        again, came = came, True
        if then is not None:
            then(signum, again)

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
