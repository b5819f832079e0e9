"""Progress on stderr: a bar with stage, step and ETA on a terminal, a line every tenth of a stage elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from tqdm import tqdm


@dataclass
class Bar:
    """One stage's progress."""

    label: str
    total: int
    start: int
    quiet: bool
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        terminal = sys.stderr.isatty()
        self._tqdm = (
            tqdm(
                total=self.total, initial=self.start, desc=self.label, unit="step", file=sys.stderr, dynamic_ncols=True
            )
            if terminal and not self.quiet
            else None
        )
        self._lines = not terminal and not self.quiet

    def update(self, done: int) -> None:
        if self._tqdm is not None:
            self._tqdm.update(done - self._tqdm.n)
        elif self._lines and (done == self.start + 1 or done * 10 // self.total != (done - 1) * 10 // self.total):
            left = (time.perf_counter() - self.began) / (done - self.start) * (self.total - done)
            sys.stderr.write(f"{self.label}: step {done}/{self.total}, about {left:.0f} s left\n")
            sys.stderr.flush()

    def close(self) -> None:
        if self._tqdm is not None:
            self._tqdm.close()


@dataclass
class Progress:
    """Stage bars and short messages; `quiet` silences both."""

    stages: int = 4
    quiet: bool = False
    current: int = 0

    def stage(self, name: str, total: int, start: int = 0) -> Bar:
        self.current += 1
        return Bar(f"[{self.current}/{self.stages}] {name}", total, start, self.quiet)

    def say(self, line: str) -> None:
        if not self.quiet:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
