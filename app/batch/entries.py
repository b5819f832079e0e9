"""Lines and their runs: which run of an earlier start belongs to which line, and how each stands.

A line's job carries the line's identity as its group, so that job.json in the run folder is enough to find it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.batch.lines import Line, shown
from app.errors import DiskError, UsageError, as_user_error
from app.jobs import state
from app.jobs.index import Index
from app.jobs.state import ACTIVE, CANCELLED, DONE, FAILED, FINISHED, QUEUED, Job
from app.jobs.submit import submit
from app.run.work import plan

MARK = "line "  # before the identity
WAITING = "waiting"
FINAL = (2, 5)  # exit codes of runs that would fail again: bad input, a collapse


@dataclass
class Entry:
    """A line, its run, and how it stands. `parts` as `plan`; `fresh`: this process sees it from its beginning;
    `share` of its work that is done, as far as is known."""

    line: Line
    job: Job | None = None
    error: str = ""
    exit_code: int = 0
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    fresh: bool = False
    status: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.line.recipe is not None:
            self.parts = plan(self.line.recipe)
        self.error, self.exit_code = self.line.error, self.line.exit_code

    @property
    def state(self) -> str:
        if self.error:
            return FAILED
        return WAITING if self.job is None else self.job.state

    @property
    def id(self) -> str:
        return "" if self.job is None else self.job.id

    @property
    def reason(self) -> str:
        return self.error or ("" if self.job is None else self.job.reason)

    def over(self) -> bool:
        return self.state in FINISHED

    def open(self) -> bool:
        """Whether its job is in the queue, or at work."""
        return not self.error and self.job is not None and not self.over()

    def work(self) -> float:
        """The seconds that it takes on some machine."""
        return sum(self.parts.values())

    def share(self) -> float:
        """Of its work that is done, 0 to 1."""
        if self.over():
            return 1.0
        if self.status is None or self.state not in ACTIVE or self.status.get("stage") not in self.parts:
            return 0.0
        names = list(self.parts)
        k = names.index(self.status["stage"])
        before = sum(self.parts[n] for n in names[:k])
        here = self.parts[names[k]] * self.status["step"] / max(1, self.status["steps"])
        return (before + here) / self.work()

    def refuse(self, e: Exception) -> None:
        """The line fails with one sentence, whatever it was, and the others go on."""
        told = as_user_error(e)
        self.error, self.exit_code = shown(str(told), 500), told.exit_code


def group_of(line: Line) -> str:
    return MARK + line.identity


def usable(root: Path, job: Job) -> bool:
    """Whether a job need not be begun anew: it is not over, or its mesh is there."""
    return job.state != DONE or (root / job.id / "mesh.glb").is_file()


def match(lines: Sequence[Line], jobs: Sequence[Job]) -> dict[int, Job]:
    """{line number: its job} for lines that have run before. Finished runs first; a line keeps its folder where it
    can, and one that moved within the file takes it along. No job belongs to two lines."""
    free: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=lambda j: j.id):
        free.setdefault(job.group, []).append(job)
    out: dict[int, Job] = {}
    for done, same in ((True, True), (True, False), (False, True), (False, False)):
        for line in lines:
            if line.error or line.number in out:
                continue
            mine = free.get(group_of(line), [])
            fits = (
                j
                for j in mine
                if (j.state == DONE or not done) and (not same or j.id.startswith(f"{line.number:04d}-"))
            )
            if (found := next(fits, None)) is not None:
                mine.remove(found)
                out[line.number] = found
    return out


def take_up(index: Index, lines: Sequence[Line]) -> list[Entry]:
    """The lines with their earlier runs. Runs that stopped are queued again, those that would fail again are left, and
    queued ones that no line asks for any more are cancelled."""
    index.sync()
    index.recover()
    known = [state.read_job(index.root / j.id) for j in index.list() if j.group.startswith(MARK)]
    jobs = [j for j in known if j is not None and usable(index.root, j)]
    found = match(lines, jobs)
    taken = {j.id for j in found.values()}
    for job in jobs:
        if job.id not in taken and job.state == QUEUED:
            with contextlib.suppress(UsageError):  # it is over, or gone, since
                index.cancel(job.id)
    entries = [Entry(line, found.get(line.number)) for line in lines]
    for entry in entries:
        job = entry.job
        entry.fresh = job is not None and job.started is None
        if job is not None and (job.state == CANCELLED or (job.state == FAILED and job.exit_code not in FINAL)):
            try:
                entry.job = index.resume(job.id)
            except DiskError:
                raise
            except Exception as e:
                entry.refuse(e)
    return entries


def begin(index: Index, entry: Entry, here: bool = True) -> None:
    """Queue a waiting line; one that is refused keeps the sentence. DiskError where the folder cannot be written."""
    line = entry.line
    assert line.recipe is not None
    try:
        entry.job = submit(
            index, line.recipe, line.pictures, title=line.title, group=group_of(line), name=line.name(), here=here
        )
        entry.fresh = True
    except DiskError:
        raise
    except Exception as e:  # a picture, a library: whatever a line can raise
        entry.refuse(e)


def refresh(index: Index, entry: Entry) -> bool:
    """Read an open line's job and progress from its folder. Returns whether its state changed."""
    before = entry.state
    try:
        entry.job = index.get(entry.id)
        active = entry.job.state in ACTIVE
        entry.status = state.read_json(index.root / entry.id / state.PROGRESS) if active else None
    except DiskError:
        raise
    except Exception as e:  # its folder was moved away meanwhile, or its files are somebody else's
        entry.refuse(e)
    return entry.state != before
