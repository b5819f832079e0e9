"""A run's state as a job: job.json in the run folder is the truth; the index (app/jobs/index.py) only repeats it.

    queued -> running -> done | failed | cancelled           cancelled, failed -> queued (resume)
              running -> cancelling -> cancelled             running -> queued (its worker died)

A process that runs a job holds a lock on `.lock` in its folder: the operating system lets go of it when the process
ends, however it ends. Who wants a job to stop writes `.cancel` beside it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import time
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import UsageError
from app.recipes import Recipe
from app.run.folder import Run, atomic
from app.text import control, quoted, shown, tidy, to_json, visible

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
GRACE = 1.2  # seconds between asking a run to stop and ending it


@dataclass(frozen=True)
class Job:
    """One run as a job. Times are seconds since 1970; `attempts` counts the workers that began it (0: a person runs
    it in a terminal); `pid` is its worker's while it runs; `reason` is the sentence that it ended with."""

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
    kind = "texture" if recipe.paint else "reconstruct" if recipe.picture.count else "generate"
    named = title or recipe.prompt or shown(run.folder.name)
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


def checked_title(title: str) -> str:
    """The title on one line, without spaces around it. UsageError for an empty or long one, or control characters."""
    title = tidy(title)
    if not visible(title) or len(title) > 200 or control(title):
        raise UsageError("A title has 1 to 200 printable characters; give another.")
    return title


def write_job(folder: Path, job: Job) -> Job:
    """Replace job.json at once. OSError where the folder cannot be written."""
    with atomic(folder / JOB) as path:
        path.write_text(to_json(dataclasses.asdict(job)) + "\n", encoding="utf-8")
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
    hints = typing.get_type_hints(Job)
    known = {k: v for k, v in value.items() if k in hints}
    if not {"id", "title", "state"} <= set(known) or known["state"] not in STATES:
        return None
    for name, v in known.items():
        if isinstance(v, int) and hints[name] in (float, float | None):
            known[name] = v = float(v)
        if isinstance(v, bool) or not isinstance(v, hints[name]) or (isinstance(v, float) and not math.isfinite(v)):
            return None
    return Job(**known)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / "config.yaml").is_file() or (folder / JOB).is_file()


def read_job(folder: Path) -> Job | None:
    """The job of a run folder; of one without job.json, or with a damaged one, what its other files say. None where it
    is no run folder, or cannot be read."""
    try:
        if not is_run(folder):
            return None
        if (folder / JOB).is_file():
            value = read_json(folder / JOB)
            job = None if value is None else job_of(value | {"id": folder.name})
            again = f"`polymode jobs resume {quoted(folder.name)}`"
            return job or _without_job(folder, f"{JOB} is damaged; {again} mends it.")
        return _without_job(folder)
    except OSError:
        return None


def _without_job(folder: Path, damage: str = "") -> Job:
    metadata = read_json(folder / "metadata.json") or {}
    config = folder / "config.yaml"
    done = metadata.get("status") == "done"
    return Job(
        folder.name,
        str(metadata.get("prompt") or shown(folder.name)),
        DONE if done else FAILED if damage else CANCELLED,
        "reconstruct" if (folder / "pictures").is_dir() else "generate",
        str(metadata.get("method", "")),
        created=round((config if config.is_file() else folder).stat().st_mtime, 3),
        ended=round((folder / "metadata.json").stat().st_mtime, 3) if metadata else None,
        exit_code=0 if done else None,
        reason="" if done else damage or str(metadata.get("reason", "It was interrupted.")),
    )


def stamp(folder: Path) -> int | None:
    """A number that changes with what `read_job` says; None where it is no run folder."""
    for name in (JOB, "metadata.json", "config.yaml"):
        try:
            return (folder / name).stat().st_mtime_ns if name == JOB or is_run(folder) else None
        except OSError:
            continue
    return None


def finished(folder: Path) -> bool:
    """Whether the run came to its end: the last file it writes says so, and its mesh is still there."""
    done = (read_json(folder / "metadata.json") or {}).get("status") == "done"
    return done and (folder / "mesh.glb").is_file()


def notes(folder: Path, state: str) -> list[str]:
    """What a run in this state noted for people: words that the prior does not read, a prompt it does not know."""
    file = PROGRESS if state in ACTIVE else "metadata.json"
    said = None if state == QUEUED else (read_json(folder / file) or {}).get("notes")
    return [str(n) for n in said] if isinstance(said, list) else []


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


DRAFT = re.compile(
    r"\.(?!job\.).+\.\d+(\.\w+)?$"
)  # what `atomic` and `write_atomically` name a file that is being written


def sweep(folder: Path) -> None:
    """Remove files that a run left half-written when it was ended; by who holds the run's lock."""
    for inside in (folder, folder / "checkpoints", folder / "previews", folder / "pictures", folder / "candidates"):
        for path in inside.glob(".*") if inside.is_dir() else ():
            if DRAFT.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)
