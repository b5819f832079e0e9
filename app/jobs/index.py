"""The index of a folder of runs: `.jobs.sqlite` beside them, so that lists and the queue need not read every folder.

It holds nothing that job.json files do not: deleted, it is rebuilt from them. Every operation opens it anew, so that
several processes, and a deletion under them, do no harm. SQLite in WAL mode, standard library.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.errors import UsageError
from app.jobs import state
from app.jobs.state import CANCELLED, CANCELLING, DONE, FAILED, FINISHED, QUEUED, RUNNING, Job, read_job, write_job

NAME = ".jobs.sqlite"
TRASH = ".trash"
MOST_ATTEMPTS = 3  # workers that may die of one job
TABLE = """CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, state TEXT NOT NULL, device TEXT NOT NULL,
priority INTEGER NOT NULL, created REAL NOT NULL, title TEXT NOT NULL, "group" TEXT NOT NULL, job TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, priority, created);"""


class Index:
    """The jobs of one folder of runs. UsageError, one sentence, where the folder or the index cannot be used."""

    def __init__(self, root: Path):
        self.root = root
        self.path = root / NAME
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UsageError(f"The folder {root} cannot be made ({e.strerror}); choose another with --runs.") from e
        if not self.path.is_file():
            self.rescan()

    def folder(self, id: str) -> Path:
        """The run's folder. UsageError for what is no plain folder name of a run here."""
        folder = self.root / id
        if not id or Path(id).name != id or id.startswith(".") or not (folder / "config.yaml").is_file():
            raise UsageError(f"There is no run {id!r} in {self.root}; `polymode jobs list` shows what there is.")
        return folder

    @contextmanager
    def _open(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(TABLE)
                if write:
                    connection.execute("BEGIN IMMEDIATE")
                yield connection
                if write:
                    connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                connection.close()
        except sqlite3.DatabaseError as e:
            raise UsageError(
                f"The index {self.path} cannot be used ({e}); rebuild it with "
                f"`polymode jobs rescan --runs {self.root}`."
            ) from e

    def _put(self, connection: sqlite3.Connection, job: Job) -> None:
        row = (job.id, job.state, job.device, job.priority, job.created, job.title, job.group)
        text = json.dumps(dataclasses.asdict(job), ensure_ascii=False)
        connection.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, text))

    def put(self, job: Job) -> Job:
        """A new job, into its folder and the index."""
        with self._open(write=True) as connection:
            return self._write(connection, job)

    def _write(self, connection: sqlite3.Connection, job: Job) -> Job:
        write_job(self.root / job.id, job)
        self._put(connection, job)
        return job

    def _change(self, id: str, change: Callable[[Job], Job]) -> Job:
        """Replace a job by `change` of what its folder says now; one process at a time."""
        self.folder(id)
        with self._open(write=True) as connection:
            return self._write(connection, change(self.get(id)))

    def rescan(self) -> int:
        """Build the index anew from the run folders. Returns how many there are."""
        found = [j for folder in sorted(self.root.iterdir()) if folder.is_dir() and (j := read_job(folder))]
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        with self._open(write=True) as connection:
            for job in found:
                self._put(connection, job)
        return len(found)

    def sync(self) -> None:
        """Take in runs that were made, and forget those that were moved away, behind the index's back."""
        try:
            here = {e.name for e in os.scandir(self.root) if not e.name.startswith(".") and e.is_dir()}
        except OSError as e:
            raise UsageError(f"The folder {self.root} cannot be read ({e.strerror}).") from e
        with self._open() as connection:
            known = {id for (id,) in connection.execute("SELECT id FROM jobs")}
        fresh = [j for name in sorted(here - known) if (j := read_job(self.root / name))]
        if fresh or known - here:
            with self._open(write=True) as connection:
                for job in fresh:
                    self._put(connection, job)
                connection.executemany("DELETE FROM jobs WHERE id = ?", [(id,) for id in known - here])

    def list(
        self,
        states: Sequence[str] = state.STATES,
        search: str = "",
        limit: int = 1_000_000,
        offset: int = 0,
        group: str = "",
    ) -> list[Job]:
        """Newest first; `search` is part of the title, whatever its case."""
        marks = ", ".join("?" * len(states))
        like = "%" + search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        query = f"SELECT job FROM jobs WHERE state IN ({marks}) AND title LIKE ? ESCAPE '\\'"
        values: list[object] = [*states, like]
        if group:
            query, values = query + ' AND "group" = ?', [*values, group]
        with self._open() as connection:
            rows = connection.execute(
                f"{query} ORDER BY created DESC, id DESC LIMIT ? OFFSET ?", [*values, limit, offset]
            )
            return [Job(**json.loads(text)) for (text,) in rows]

    def get(self, id: str) -> Job:
        """The job as its folder says. UsageError where there is none."""
        job = read_job(self.folder(id))
        if job is None:
            raise UsageError(f"{self.root / id / state.JOB} is damaged; move that folder away, or remove the file.")
        return job

    def claim(self, devices: Sequence[str], pid: int) -> tuple[Job, int] | None:
        """Take the first queued job of these devices: (job, now running; its lock), or None. The lock is taken before
        the state changes, so that a job that says it runs is either locked or its worker has died."""
        marks = ", ".join("?" * len(devices))
        while True:
            with self._open(write=True) as connection:
                row = connection.execute(
                    f"SELECT id FROM jobs WHERE state = ? AND device IN ({marks}) "
                    "ORDER BY priority DESC, created, id LIMIT 1",
                    (QUEUED, *devices),
                ).fetchone()
                if row is None:
                    return None
                folder = self.root / row[0]
                job = read_job(folder) if folder.is_dir() else None
                handle = None if job is None or job.state != QUEUED else state.lock(folder)
                if job is None or handle is None:  # the folder knows better than the index, or another process has it
                    if job is None:
                        connection.execute("DELETE FROM jobs WHERE id = ?", row)
                    elif job.state != QUEUED:
                        self._put(connection, job)
                    else:
                        return None
                    continue
                try:
                    return self._write(connection, _running(job, pid)), handle
                except BaseException:
                    state.unlock(handle)
                    raise

    def begin(self, id: str, pid: int) -> Job:
        """A job that this process runs itself, whose lock it holds."""
        return self._change(id, lambda j: _running(j, pid))

    def end(self, id: str, to: str, exit_code: int, reason: str = "") -> Job:
        """A job whose lock this process holds is over."""

        def over(job: Job) -> Job:
            return dataclasses.replace(job, state=to, ended=state.now(), pid=None, exit_code=exit_code, reason=reason)

        (self.root / id / state.CANCEL).unlink(missing_ok=True)
        return self._change(id, over)

    def cancel(self, id: str) -> Job:
        """A queued job is cancelled at once, a running one is asked to stop. UsageError where it is over."""

        def stop(job: Job) -> Job:
            if job.state in FINISHED:
                raise UsageError(f"The run {id} is {job.state}; there is nothing to cancel.")
            if job.state == QUEUED:
                return dataclasses.replace(
                    job, state=CANCELLED, ended=state.now(), exit_code=130, reason="Cancelled in the queue."
                )
            (self.root / id / state.CANCEL).touch()
            return dataclasses.replace(job, state=CANCELLING)

        return self._change(id, stop)

    def resume(self, id: str, priority: int | None = None) -> Job:
        """Queue a cancelled or failed run again; it goes on from its checkpoints. UsageError where it is not over."""

        def again(job: Job) -> Job:
            if job.state not in (CANCELLED, FAILED):
                raise UsageError(f"The run {id} is {job.state}; only cancelled and failed runs can be resumed.")
            (self.root / id / state.CANCEL).unlink(missing_ok=True)
            kept = job.priority if priority is None else priority
            fresh = {"ended": None, "exit_code": None, "reason": "", "attempts": 0, "pid": None}
            return dataclasses.replace(job, state=QUEUED, priority=kept, **fresh)

        return self._change(id, again)

    def rename(self, id: str, title: str) -> Job:
        """Another title; the folder keeps its name. UsageError for an empty or unprintable title."""
        title = title.strip()
        if not title or len(title) > 200 or any(not c.isprintable() for c in title):
            raise UsageError("A title has 1 to 200 printable characters; give another.")
        return self._change(id, lambda j: dataclasses.replace(j, title=title))

    def trash(self, id: str) -> Path:
        """Move a run that is over to .trash, where a person may delete it. Returns where it is now."""
        folder = self.folder(id)
        with self._open(write=True) as connection:
            job = self.get(id)
            if job.state not in FINISHED or state.held(folder):
                raise UsageError(f"The run {id} is {job.state}; cancel it first.")
            (self.root / TRASH).mkdir(exist_ok=True)
            target, n = self.root / TRASH / id, 1
            while target.exists():
                n += 1
                target = self.root / TRASH / f"{id}-{n}"
            shutil.move(folder, target)
            connection.execute("DELETE FROM jobs WHERE id = ?", (id,))
        return target

    def recover(self) -> list[Job]:
        """Settle jobs that say they run while nobody holds their lock: their worker died. A finished run is done, one
        that was asked to stop is cancelled, another is queued again, until MOST_ATTEMPTS workers died of it. Returns
        what was changed."""
        with self._open() as connection:
            rows = connection.execute("SELECT id FROM jobs WHERE state IN (?, ?)", state.ACTIVE).fetchall()
        changed = []
        for (id,) in rows:
            folder = self.root / id
            if not folder.is_dir():
                continue
            with state.locked(folder) as mine:
                if mine and read_job(folder) is not None:
                    settle = functools.partial(self._settled, folder)
                    changed.append(self._change(id, lambda j, f=settle: f(j) if j.state in state.ACTIVE else j))
        return changed

    def _settled(self, folder: Path, job: Job) -> Job:
        job = dataclasses.replace(job, pid=None, ended=state.now())
        if state.finished(folder):
            return dataclasses.replace(job, state=DONE, exit_code=0, reason="")
        if job.state == CANCELLING or state.cancel_asked(folder):
            (folder / state.CANCEL).unlink(missing_ok=True)
            again = f"continue with `polymode jobs resume {job.id}`."
            return dataclasses.replace(job, state=CANCELLED, exit_code=130, reason=f"Cancelled; {again}")
        if job.attempts >= MOST_ATTEMPTS:
            return dataclasses.replace(
                job,
                state=FAILED,
                exit_code=1,
                reason=f"The worker died {job.attempts} times during this run; see {state.LOG} in its folder.",
            )
        return dataclasses.replace(job, state=QUEUED, ended=None)


def _running(job: Job, pid: int) -> Job:
    return dataclasses.replace(
        job, state=RUNNING, started=state.now(), ended=None, pid=pid, attempts=job.attempts + 1, reason=""
    )
