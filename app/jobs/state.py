"""A run's state as a job: job.json in the run folder is the truth; the index (app/jobs/index.py) only repeats it.

    queued -> running -> done | failed | cancelled           cancelled, failed -> queued (resume)
              running -> cancelling -> cancelled             running -> queued (its worker died)

A process that runs a job holds a lock on `.lock` in its folder: the operating system lets go of it when the process
ends, however it ends. Who wants a job to stop writes `.cancel` beside it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.recipes import Recipe
from app.runs import Run, atomic

QUEUED, RUNNING, CANCELLING, CANCELLED, FAILED, DONE = STATES = (
    "queued",
    "running",
    "cancelling",
    "cancelled",
    "failed",
    "done",
)
ACTIVE = (RUNNING, CANCELLING)
FINISHED = (CANCELLED, FAILED, DONE)
JOB, LOCK, CANCEL, PROGRESS, HEARTBEAT, LOG = (
    "job.json",
    ".lock",
    ".cancel",
    "progress.json",
    ".heartbeat",
    "log.txt",
)


@dataclass(frozen=True)
class Job:
    """One run as a job. Times are seconds since 1970; `attempts` counts the workers that began it; `pid` is its
    worker's while it runs; `reason` is the sentence that it ended with."""

    id: str
    """The folder's name."""
    title: str
    state: str = QUEUED
    kind: str = "generate"
    method: str = ""
    device: str = "auto"
    priority: int = 0
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    pid: int | None = None
    exit_code: int | None = None
    reason: str = ""
    group: str = ""
    """What belongs together: the seeds of one request, a batch."""


def now() -> float:
    """Seconds since 1970."""
    return round(time.time(), 3)


def new_job(run: Run, recipe: Recipe, priority: int = 0, title: str = "", group: str = "") -> Job:
    """A queued job of a run folder that was just created."""
    kind = "reconstruct" if recipe.picture.count else "generate"
    named = title or recipe.prompt or run.folder.name
    return Job(
        run.folder.name,
        named,
        QUEUED,
        kind,
        recipe.method,
        recipe.device,
        priority,
        now(),
        group=group,
    )


def write_job(folder: Path, job: Job) -> Job:
    """Replace job.json at once. OSError where the folder cannot be written."""
    with atomic(folder / JOB) as path:
        path.write_text(json.dumps(dataclasses.asdict(job), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return job


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def job_of(value: dict[str, Any]) -> Job | None:
    """A job from its JSON object, or None where that is none."""
    known = {f.name for f in dataclasses.fields(Job)}
    try:
        job = Job(**{k: v for k, v in value.items() if k in known})
    except TypeError:
        return None
    return job if job.state in STATES and isinstance(job.title, str) else None


def read_job(folder: Path) -> Job | None:
    """The job of a run folder; of one without job.json, what its other files say. None where it is no run folder."""
    value = read_json(folder / JOB)
    if value is not None:
        return job_of(value | {"id": folder.name})
    if not (folder / "config.yaml").is_file():
        return None
    metadata = read_json(folder / "metadata.json") or {}
    created = (folder / "config.yaml").stat().st_mtime
    done = metadata.get("status") == "done"
    return Job(
        folder.name,
        str(metadata.get("prompt") or folder.name),
        DONE if done else CANCELLED,
        "reconstruct" if (folder / "pictures").is_dir() else "generate",
        str(metadata.get("method", "")),
        created=round(created, 3),
        ended=round((folder / "metadata.json").stat().st_mtime, 3) if metadata else None,
        exit_code=0 if done else None,
        reason="" if done else str(metadata.get("reason", "It was interrupted.")),
    )


def finished(folder: Path) -> bool:
    """Whether the run came to its end: the last file it writes says so."""
    return (read_json(folder / "metadata.json") or {}).get("status") == "done"


def cancel_asked(folder: Path) -> bool:
    return (folder / CANCEL).exists()


def lock(folder: Path) -> int | None:
    """Take the run's lock: a file descriptor to `unlock`, or None where another process holds it."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def unlock(handle: int) -> None:
    """Closing a descriptor lets go of its lock."""
    os.close(handle)


def held(folder: Path) -> bool:
    """Whether a living process holds the run's lock."""
    if not (folder / LOCK).exists():
        return False
    handle = lock(folder)
    if handle is None:
        return True
    unlock(handle)
    return False


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the run's lock; yields False where another process has it."""
    handle = lock(folder)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            unlock(handle)
