"""The live table of a batch: redrawn on a terminal, elsewhere a line for every change; and when all will be done."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.batch.entries import WAITING, Entry
from app.jobs.state import ACTIVE, CANCELLED, DONE, FAILED, FINISHED, QUEUED, RUNNING
from app.text import shown

REDRAW = 0.5  # seconds
NO_WRAP, WRAP, CLEAR = "\x1b[?7l", "\x1b[?7h", "\x1b[J"


def counts(entries: Sequence[Entry]) -> dict[str, int]:
    """Lines by state; what is queued waits."""
    out: dict[str, int] = dict.fromkeys([DONE, FAILED, CANCELLED, RUNNING, WAITING], 0)
    for e in entries:
        out[RUNNING if e.state in ACTIVE else WAITING if e.state == QUEUED else e.state] += 1
    return out


def seconds_left(entries: Sequence[Entry], width: int) -> float | None:
    """Until all is done, from what this process has seen runs take, or from what running ones expect, and what is left
    of them; None while nothing is known."""
    begun = [e for e in entries if e.fresh and e.job is not None and e.job.started is not None]
    over = [e for e in begun if e.state == DONE]
    spent = done = 0.0
    for e in over or [e for e in begun if e.state in ACTIVE]:
        assert e.job is not None and e.job.started is not None
        done += e.share() * e.work()
        spent += (e.job.ended or time.time()) - e.job.started
    left = [(1 - e.share()) * e.work() for e in entries if not e.over()]
    if not left:
        return 0.0
    if done <= 0:
        for e in entries:
            if e.state in ACTIVE and e.status is not None and e.status["eta"] is not None:
                done += (1 - e.share()) * e.work()
                spent += e.status["eta"]
    if done <= 0:
        return None
    return spent / done * max(max(left), sum(left) / max(1, min(width, len(left))))


def duration(seconds: float) -> str:
    """12 s, 3 min, 2 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def summed(entries: Sequence[Entry], width: int) -> str:
    """The line under the table."""
    n = counts(entries)
    parts = [f"{n[k]} {k}" for k in (DONE, FAILED, CANCELLED, RUNNING, WAITING) if n[k] or k == DONE]
    left = seconds_left(entries, width)
    eta = "" if not left else f" · about {duration(left)} left"
    return f"{len(entries)} lines: {', '.join(parts)}{eta}"


def row(e: Entry) -> str:
    """A line of the table."""
    took, what = "", ""
    if e.job is not None and e.job.started is not None and not e.error:
        took = duration((e.job.ended or time.time()) - e.job.started) if e.over() or e.state in ACTIVE else ""
    if e.state in ACTIVE and e.status is not None:
        what = f"{e.status['stage']} {e.status['step']}/{e.status['steps']}"
    name = e.id or e.line.title
    text = f"{e.line.number:>5}  {e.state:<10} {took:>7}  {what:<16} {name}"
    return shown(text + (f": {e.reason}" if e.state in (FAILED, CANCELLED) else ""), 1000)


def chosen(entries: Sequence[Entry], room: int) -> list[Entry]:
    """What fits into `room` rows, in the file's order: what runs, then failures, what was done last, what is next."""
    running = [e for e in entries if e.state in ACTIVE]
    bad = [e for e in entries if e.state in (FAILED, CANCELLED)][::-1]
    good = sorted((e for e in entries if e.state == DONE), key=lambda e: (e.job and e.job.ended) or 0, reverse=True)
    waiting = [e for e in entries if e.state in (WAITING, QUEUED)]
    picked = running[:room]
    for some, most in ((bad, room // 3), (good, room // 3), (waiting, room), (good[room // 3 :], room)):
        picked += some[: min(most, room - len(picked))]
    return sorted(picked, key=lambda e: e.line.number)


@dataclass
class Table:
    """What is shown on stderr."""

    entries: Sequence[Entry]
    terminal: bool = field(default_factory=lambda: sys.stderr.isatty())
    drawn: int = 0
    at: float = 0.0
    note: str = ""

    def changed(self, entry: Entry, width: int) -> None:
        """A line begins, or is over."""
        if self.terminal or entry.state not in (RUNNING, *FINISHED):
            return
        over = sum(e.over() for e in self.entries)
        left = seconds_left(self.entries, width)
        eta = "" if not left or not entry.over() else f" · about {duration(left)} left"
        sys.stderr.write(f"{over}/{len(self.entries)} {' '.join(row(entry).split())}{eta}\n")
        sys.stderr.flush()

    def say(self, sentence: str) -> None:
        """Something about the whole, once."""
        if sentence == self.note:
            return
        self.note = sentence
        if not self.terminal and sentence:
            sys.stderr.write(sentence + "\n")
            sys.stderr.flush()

    def draw(self, width: int, last: bool = False) -> None:
        """Redraw on a terminal, at most every REDRAW seconds."""
        if not self.terminal or (time.monotonic() - self.at < REDRAW and not last):
            return
        self.at = time.monotonic()
        rows = [f"{'line':>5}  {'state':<10} {'time':>7}  {'step':<16} run"]
        rows += [row(e) for e in chosen(self.entries, max(3, shutil.get_terminal_size().lines - 4))]
        rows += [summed(self.entries, width)] + ([shown(self.note, 1000)] if self.note else [])
        up = f"\x1b[{self.drawn}F" if self.drawn else ""
        sys.stderr.write(up + CLEAR + NO_WRAP + "".join(r + "\n" for r in rows) + WRAP)
        sys.stderr.flush()
        self.drawn = len(rows)
