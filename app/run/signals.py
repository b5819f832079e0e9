"""Ctrl-C and SIGTERM as a question that a loop asks, instead of the end of the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(
    then: Callable[[int, bool], None] | None = None, hangup: bool = False
) -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM are noted, with `hangup` a closed terminal too (unless nohup said otherwise); yields whether
    one came. `then(signal, again)` is called with each, `again` where it was not the first. Only the main thread hears
    signals: elsewhere none comes."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = False

    def note(signum: int, frame: object) -> None:
        nonlocal came
        again, came = came, True
        if then is not None:
            then(signum, again)

    signals = [signal.SIGINT, signal.SIGTERM]
    if hangup and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signals.append(signal.SIGHUP)
    previous = {s: signal.signal(s, note) for s in signals}
    try:
        yield lambda: came
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
