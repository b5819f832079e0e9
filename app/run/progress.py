"""Progress: a bar with stage, step and ETA on a terminal, a line every tenth of a stage elsewhere, and a status for
who listens (the worker writes it beside the run)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tqdm import tqdm


@dataclass(frozen=True)
class Status:
    """Where a run is. `eta` and `stage_eta` in seconds, None while nothing is known."""

    stage: str
    number: int
    stages: int
    step: int
    steps: int
    stage_eta: float | None
    eta: float | None
    notes: tuple[str, ...] = ()


@dataclass
class Bar:
    """One stage's progress."""

    name: str
    label: str
    total: int
    start: int
    progress: Progress
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        terminal = sys.stderr.isatty()
        quiet = self.progress.quiet
        self._tqdm = (
            tqdm(
                total=self.total, initial=self.start, desc=self.label, unit="step", file=sys.stderr, dynamic_ncols=True
            )
            if terminal and not quiet
            else None
        )
        self._lines = not terminal and not quiet
        self._done = self.start
        self._tell(None)

    def update(self, done: int) -> None:
        self._done = done
        left = (time.perf_counter() - self.began) / max(1, done - self.start) * (self.total - done)
        if self._tqdm is not None:
            self._tqdm.update(done - self._tqdm.n)
        elif self._lines and (done == self.start + 1 or done * 10 // self.total != (done - 1) * 10 // self.total):
            sys.stderr.write(f"{self.label}: step {done}/{self.total}, about {left:.0f} s left\n")
            sys.stderr.flush()
        self._tell(left)

    def close(self) -> None:
        if self._tqdm is not None:
            self._tqdm.close()
        work, seconds = self._measured()
        self.progress.work += work
        self.progress.seconds += seconds

    def _measured(self) -> tuple[float, float]:
        """(work, seconds) that this stage has taken here."""
        share = (self._done - self.start) / max(1, self.total)
        return share * self.progress.plan.get(self.name, 0.0), time.perf_counter() - self.began

    def _tell(self, left: float | None) -> None:
        p = self.progress
        if p.listener is None:
            return
        work, seconds = self._measured()
        work, seconds = work + p.work, seconds + p.seconds
        names = list(p.plan)
        after = sum(p.plan[n] for n in names[names.index(self.name) + 1 :]) if self.name in p.plan else 0.0
        here = p.plan.get(self.name, 0.0) * (1 - self._done / max(1, self.total))
        eta = None if work <= 0 else seconds / work * (after + here)
        p.listener(Status(self.name, p.current, len(p.plan), self._done, self.total, left, eta, tuple(p.notes)))


@dataclass
class Progress:
    """Stage bars and short messages; `quiet` silences both. `plan`: the run's stages in order, and the seconds each
    takes on some machine: their ratios and what was measured give the ETA. `listener` hears of every step. `notes`:
    sentences that a person should still see when the run is over."""

    quiet: bool = False
    current: int = 0
    plan: Mapping[str, float] = field(default_factory=dict)
    listener: Callable[[Status], None] | None = None
    work: float = 0.0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def stage(self, name: str, total: int, start: int = 0) -> Bar:
        self.current += 1
        place = f"[{self.current}/{len(self.plan)}] " if self.plan else ""
        return Bar(name, f"{place}{name}", total, start, self)

    def note(self, sentence: str) -> None:
        """Say it, and keep it for metadata.json and the page."""
        self.notes.append(sentence)
        self.say(sentence)

    def say(self, line: str) -> None:
        if not self.quiet:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
