"""Ctrl-C and SIGTERM as a question that a loop asks, instead of the end of the process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals(
    then: Callable[[int, bool], None] | None = None, hangup: bool = False
) -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM are noted, with `hangup` a closed terminal too (unless nohup said otherwise); yields whether
    one came. `then(signal, again)` is called with each, `again` where it was not the first."""
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
