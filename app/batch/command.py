"""`polymode batch`: a file of lines, an executor, and the loop between them.

Lines become jobs in the folder only shortly before they can run, so that a changed file has little to take back.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.batch.entries import WAITING, Entry, begin, refresh, take_up
from app.batch.executors import Executor, LocalExecutor
from app.batch.lines import read_lines
from app.batch.options import Batch
from app.batch.report import PAGE, Report
from app.batch.table import Table, counts
from app.errors import FULL, DiskError, UsageError
from app.jobs.index import Index
from app.jobs.state import CANCELLED, FAILED
from app.jobs.supervisor import MOST_WORKERS
from app.run.signals import stop_signals
from app.text import to_json

POLL = 0.2  # seconds
AHEAD = 2  # jobs in the queue or at work, a worker


def run_batch(a: Batch) -> int:
    """The command's body. Returns the exit code: 0 all done, 1 some lines failed, 130 interrupted."""
    began = time.monotonic()
    check(a)
    lines = read_lines(a.lines)
    root = folder(a.out)
    report = Report(root, a.lines)
    report.claim()
    index, entries = Index(root), list[Entry]()
    with disk(root):
        executor = executor_of(a, root)  # before the signals: Ray has a handler of its own
    with disk(root), stop_signals() as interrupted:
        try:
            entries = take_up(index, lines)
            summary = report.write(entries, "running", time.monotonic() - began)
            work(index, entries, executor, report, interrupted, began)
        finally:
            executor.stop()
            for e in entries:
                if e.open():
                    refresh(index, e)
        stopped = not all(e.over() for e in entries)
        summary = report.write(entries, "interrupted" if stopped else "done", time.monotonic() - began)
    return say(a, entries, summary, stopped)


def check(a: Batch) -> None:
    """UsageError for options that do not go together."""
    if not 0 <= a.workers <= MOST_WORKERS or not 0 <= a.threads <= MOST_WORKERS:
        raise UsageError(f"--workers and --threads are 0 to {MOST_WORKERS}; 0 leaves the choice to Polymode.")
    if not 1 <= a.cores_per_worker <= MOST_WORKERS:
        raise UsageError(f"--cores-per-worker {a.cores_per_worker} is out of range; use 1 to {MOST_WORKERS}.")
    if a.address and a.executor != "ray":
        raise UsageError("--address is a Ray cluster's; give --executor ray beside it.")
    if a.threads and a.executor == "ray":
        raise UsageError("--threads is for local workers; use --cores-per-worker with --executor ray.")


def folder(out: Path) -> Path:
    """The batch's folder. UsageError where there can be none."""
    try:
        if out.exists() and not out.is_dir():
            raise UsageError(f"The output {out} is a file; give a folder with --out.")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"The folder {out} cannot be made ({e.strerror}); choose another with --out.") from e
    return out


@contextmanager
def disk(root: Path) -> Iterator[None]:
    """DiskError for a folder that can no longer be written; its jobs stay as they are."""
    try:
        yield
    except OSError as e:
        if e.errno not in FULL:
            raise
        raise DiskError(f"{root} cannot be written ({e.strerror}). Make room, then start the same batch again.") from e


def executor_of(a: Batch, root: Path) -> Executor:
    """UsageError or MissingError where it cannot be had."""
    if a.executor == "ray":
        from app.batch.ray_executor import RayExecutor

        return RayExecutor(root, a.address, a.workers, a.cores_per_worker)
    return LocalExecutor(root, a.workers, a.threads)


def work(
    index: Index,
    entries: list[Entry],
    executor: Executor,
    report: Report,
    interrupted: Callable[[], bool],
    began: float,
) -> None:
    """Until every line is over, or somebody interrupts."""
    table = Table(entries)
    waiting = [e for e in entries if e.state == WAITING]
    opened = [e for e in entries if e.open()]
    for e in entries:
        if e.error:
            table.changed(e, executor.width())
    while (waiting or opened) and not interrupted():
        table.say(executor.tick())
        while waiting and len(opened) < AHEAD * max(1, executor.width()) and not interrupted():
            entry = waiting.pop(0)
            begin(index, entry, executor.here)
            opened.append(entry)
            table.draw(executor.width())
        ended = False
        for e in opened:
            if (e.open() and refresh(index, e)) or e.over():
                table.changed(e, executor.width())
                ended = ended or e.over()
        opened = [e for e in opened if not e.over()]
        if ended:
            report.write(entries, "running", time.monotonic() - began)
        table.draw(executor.width())
        time.sleep(POLL)
    table.draw(executor.width(), last=True)


def say(a: Batch, entries: list[Entry], summary: dict[str, Any], stopped: bool) -> int:
    """Print what came out. Returns the exit code."""
    n = counts(entries)
    bad = n[FAILED] + n[CANCELLED]
    if a.json:
        sys.stdout.write(to_json(summary, encoding=sys.stdout.encoding) + "\n")
    else:
        said = ", ".join(f"{v} {k}" for k, v in n.items() if v)
        sys.stdout.write(f"{len(entries)} lines: {said}\n{a.out / PAGE}\n")
        for row in summary["runs"]:
            if row["notes"]:
                sys.stderr.write(f"line {row['line']}: {row['notes']}\n")
    if stopped:
        sys.stderr.write("Interrupted; the same command goes on where it stopped.\n")
        return 130
    return 1 if bad else 0
