"""The index of a folder of runs: `.jobs.sqlite` beside them, so that lists and the queue need not read every folder.

It holds nothing that job.json files do not: deleted, or older than this version, it is rebuilt from them by whoever
opens it next. Every operation opens it anew, so that several processes, and a deletion under them, do no harm; every
change of a job.json is made within a transaction, so that one process at a time makes it. SQLite in WAL mode, standard
library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.errors import Cancelled, DiskError, UsageError, UserError
from app.jobs import state
from app.jobs.state import (
    ACTIVE,
    CANCELLED,
    CANCELLING,
    DONE,
    FAILED,
    FINISHED,
    QUEUED,
    RUNNING,
    Job,
    read_job,
    write_job,
)
from app.text import quoted, shown, to_json

NAME = ".jobs.sqlite"
TRASH = ".trash"
MOST_ATTEMPTS = 3  # workers that may die of one job
PATIENCE = 30.0  # seconds to wait for another process's transaction
VERSION = 2
ID, BYTES = "CAST(? AS TEXT)", "CAST(id AS BLOB)"  # a folder's name may be no UTF-8, which SQLite minds in text alone
TABLE = (
    "DROP TABLE IF EXISTS jobs",
    """CREATE TABLE jobs (id TEXT PRIMARY KEY, state TEXT NOT NULL, device TEXT NOT NULL, priority INTEGER NOT NULL,
    created REAL NOT NULL, title TEXT NOT NULL, "group" TEXT NOT NULL, stamp INTEGER, job TEXT NOT NULL)""",
    "CREATE INDEX by_state ON jobs (state, priority, created)",
    f"PRAGMA user_version = {VERSION}",
)


class DamagedIndex(UsageError):
    """The file is no SQLite database, or one that is broken."""


class Index:
    """The jobs of one folder of runs. Everything raises UsageError, one sentence, where the folder or the index cannot
    be used, and DiskError where it cannot be written."""

    def __init__(self, root: Path):
        self.root = root
        self.path = root / NAME
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UsageError(f"The folder {root} cannot be made ({e.strerror}); choose another with --runs.") from e

    def folder(self, id: str) -> Path:
        """The run's folder. UsageError for what is no plain folder name of a run here."""
        folder = self.root / id
        try:
            known = Path(id).name == id and not id.startswith(".") and state.is_run(folder)
        except OSError:  # a name too long to be one
            known = False
        if not known:
            raise UsageError(f"There is no run {id[:80]!r} in {self.root}; `polymode jobs list` shows what there is.")
        return folder

    @contextmanager
    def _open(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            try:
                connection = self._connect(self.path)
            except sqlite3.DatabaseError as e:
                if write or not isinstance(self._said(e), DiskError):
                    raise
                connection = self._connect(":memory:")  # SQLite cannot even read on a full disk; the folders can be
            try:
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
            raise self._said(e) from e
        except OSError as e:
            raise DiskError(f"The folder {self.root} cannot be written ({e.strerror}); make room in it.") from e

    def _connect(self, path: Path | str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        try:
            connection.create_function("folded", 1, str.casefold, deterministic=True)
            if _version(connection) != VERSION:
                _turn_on_wal(connection)
                self._fill(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def check_writable(self) -> None:
        """DiskError where the index cannot be changed now."""
        with self._open(write=True):
            pass

    def _said(self, e: sqlite3.DatabaseError) -> UserError:
        name = getattr(e, "sqlite_errorname", "")
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            return DiskError(f"The index {self.path} cannot be written ({e}); make room in its folder.")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return UsageError(f"The index {self.path} is in another process's use ({e}); try again.")
        return DamagedIndex(
            f"The index {self.path} cannot be used ({e}); rebuild it with `polymode jobs rescan --runs "
            f"{quoted(self.root)}`."
        )

    def _fill(self, connection: sqlite3.Connection, again: bool = False) -> None:
        """Read all folders into a new table; `again`: though there is one."""
        connection.execute("BEGIN IMMEDIATE")
        if again or _version(connection) != VERSION:  # another process may have been faster
            for statement in TABLE:
                connection.execute(statement)
            for folder in self._folders():
                if job := read_job(folder):
                    self._put(connection, job)
        connection.execute("COMMIT")

    def _folders(self) -> list[Path]:
        try:
            return sorted(
                self.root / e.name for e in os.scandir(self.root) if not e.name.startswith(".") and e.is_dir()
            )
        except OSError as e:
            raise UsageError(f"The folder {self.root} cannot be read ({e.strerror}).") from e

    def _put(self, connection: sqlite3.Connection, job: Job) -> None:
        row = (os.fsencode(job.id), job.state, job.device, job.priority, job.created, shown(job.title, 1000))
        more = (job.group, state.stamp(self.root / job.id), to_json(dataclasses.asdict(job), None))
        connection.execute(f"INSERT OR REPLACE INTO jobs VALUES ({ID}, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, *more))

    def _forget(self, connection: sqlite3.Connection, id: str) -> None:
        connection.execute(f"DELETE FROM jobs WHERE id = {ID}", (os.fsencode(id),))

    def put(self, job: Job, most: int = 0) -> Job:
        """A new job, into its folder and the index. UsageError where `most` jobs wait or run already (0: no limit)."""
        with self._open(write=True) as connection:
            if most:
                marks = ", ".join("?" * len((QUEUED, *ACTIVE)))
                query = f"SELECT COUNT(*) FROM jobs WHERE state IN ({marks})"
                (waiting,) = connection.execute(query, (QUEUED, *ACTIVE)).fetchone()
                if waiting >= most:
                    raise UsageError(f"{waiting} jobs are waiting, and {most} is the limit; try again later.")
            return self._write(connection, job)

    def _write(self, connection: sqlite3.Connection, job: Job) -> Job:
        write_job(self.root / job.id, job)
        self._put(connection, job)
        return job

    def change(self, id: str, change: Callable[[Job], Job]) -> Job:
        """Replace a job by `change` of what its folder says now; one process at a time."""
        self.folder(id)
        with self._open(write=True) as connection:
            return self._write(connection, change(self.get(id)))

    def rescan(self) -> int:
        """Build the index anew from the run folders. Returns how many there are."""
        try:
            with self._open() as connection:
                self._fill(connection, again=True)
        except DamagedIndex:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        with self._open() as connection:
            return connection.execute("SELECT COUNT(*) FROM jobs").fetchone()[0]

    def sync(self) -> None:
        """Take in runs that were made or changed, and forget those that were moved away, behind the index's back."""
        here = {f.name: s for f in self._folders() if (s := state.stamp(f)) is not None}
        with self._open() as connection:
            rows = connection.execute(f"SELECT {BYTES}, stamp FROM jobs")
            known = {os.fsdecode(id): stamp for id, stamp in rows}
        odd = {id for id in here.keys() | known.keys() if here.get(id) != known.get(id)}
        if not odd:
            return
        with self._open(write=True) as connection:  # looked at again: they may be newer than `here`
            for id in sorted(odd):
                if job := read_job(self.root / id):
                    self._put(connection, job)
                elif not state.is_run(self.root / id):
                    self._forget(connection, id)

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
        query, values = f"SELECT {BYTES}, job FROM jobs WHERE state IN ({marks})", [*states]
        if search:
            query += " AND instr(folded(title), ?) > 0"
            values.append(search.encode("utf-8", "replace").decode().casefold())
        if group:
            query += ' AND "group" = ?'
            values.append(group)
        with self._open() as connection:
            rows = connection.execute(
                f"{query} ORDER BY created DESC, id DESC LIMIT ? OFFSET ?", [*values, limit, offset]
            )
            return [Job(**json.loads(text) | {"id": os.fsdecode(id)}) for id, text in rows]

    def get(self, id: str) -> Job:
        """The job as its folder says. UsageError where there is none."""
        job = read_job(self.folder(id))
        if job is None:
            raise UsageError(f"{self.root / id / state.JOB} cannot be read; see who may read that folder.")
        return job

    def claim(self, devices: Sequence[str], pid: int) -> tuple[Job, int] | None:
        """Take the first queued job of these devices: (job, now running; its lock), or None. The lock is taken before
        the state changes, so that a job that says it runs is either locked or its worker has died."""
        marks = ", ".join("?" * len(devices))
        query = f"SELECT {BYTES} FROM jobs WHERE state = ? AND device IN ({marks}) ORDER BY priority DESC, created, id"
        with self._open() as connection:
            waiting = [os.fsdecode(id) for (id,) in connection.execute(query, (QUEUED, *devices))]
        for id in waiting:
            if claimed := self._claim(id, pid):
                return claimed
        return None

    def _claim(self, id: str, pid: int) -> tuple[Job, int] | None:
        handle = None
        try:
            with self._open(write=True) as connection:
                folder = self.root / id
                job = read_job(folder)
                if job is None or job.state != QUEUED:  # the folder knows better than the index
                    if job is not None:
                        self._put(connection, job)
                    elif not state.is_run(folder):
                        self._forget(connection, id)
                    return None
                handle = state.lock(folder)
                return None if handle is None else (self._write(connection, _running(job, pid)), handle)
        except BaseException:
            if handle is not None:
                state.unlock(handle)
            raise

    def end(self, id: str, to: str, exit_code: int, reason: str = "") -> Job:
        """A job whose lock this process holds is over."""

        def over(job: Job) -> Job:
            (self.root / id / state.CANCEL).unlink(missing_ok=True)
            return dataclasses.replace(job, state=to, ended=state.now(), pid=None, exit_code=exit_code, reason=reason)

        return self.change(id, over)

    def release(self, id: str) -> Job:
        """A running job whose worker was asked to end is queued again, or cancelled if that was asked too; the attempt
        does not count."""

        def back(job: Job) -> Job:
            if job.state not in ACTIVE:
                return job
            if job.state == CANCELLING or state.cancel_asked(self.root / id):
                return self._cancelled(job)
            return dataclasses.replace(job, state=QUEUED, pid=None, attempts=max(0, job.attempts - 1))

        return self.change(id, back)

    def _cancelled(self, job: Job) -> Job:
        (self.root / job.id / state.CANCEL).unlink(missing_ok=True)
        reason = f"Cancelled; continue with `polymode jobs resume {quoted(job.id)}`."
        return dataclasses.replace(
            job, state=CANCELLED, pid=None, ended=state.now(), exit_code=Cancelled.exit_code, reason=reason
        )

    def cancel(self, id: str) -> Job:
        """A queued job is cancelled at once, a running one is asked to stop. UsageError where it is over."""

        def stop(job: Job) -> Job:
            if job.state in FINISHED:
                raise UsageError(f"The run {id} is {job.state}; there is nothing to cancel.")
            if job.state == QUEUED:
                return self._cancelled(job)
            if not state.cancel_asked(self.root / id):
                (self.root / id / state.CANCEL).touch()
            return dataclasses.replace(job, state=CANCELLING)

        return self.change(id, stop)

    def resume(self, id: str, priority: int | None = None) -> Job:
        """Queue a cancelled or failed run again; it goes on from its checkpoints. UsageError where it is not over."""

        def again(job: Job) -> Job:
            if job.state not in (CANCELLED, FAILED):
                raise UsageError(f"The run {id} is {job.state}; only cancelled and failed runs can be resumed.")
            (self.root / id / state.CANCEL).unlink(missing_ok=True)
            kept = job.priority if priority is None else priority
            fresh = {"ended": None, "exit_code": None, "reason": "", "attempts": 0, "pid": None}
            return dataclasses.replace(job, state=QUEUED, priority=kept, **fresh)

        return self.change(id, again)

    def rename(self, id: str, title: str) -> Job:
        """Another title; the folder keeps its name. UsageError for an empty or unprintable title."""
        title = state.checked_title(title)
        return self.change(id, lambda j: dataclasses.replace(j, title=title))

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
            self._forget(connection, id)
        return target

    def recover(self) -> list[Job]:
        """Settle jobs that say they run while nobody holds their lock: their worker died. A finished run is done, one
        that was asked to stop is cancelled, another is queued again, until MOST_ATTEMPTS workers died of it. Returns
        what was changed."""
        with self._open() as connection:
            rows = connection.execute(f"SELECT {BYTES} FROM jobs WHERE state IN (?, ?)", ACTIVE).fetchall()
        changed = []
        for (name,) in rows:
            id = os.fsdecode(name)
            folder = self.root / id
            with contextlib.suppress(FileNotFoundError), state.locked(folder) as mine:
                if mine and state.is_run(folder):
                    settle = functools.partial(self._settled, folder)
                    changed.append(self.change(id, lambda j, f=settle: f(j) if j.state in ACTIVE else j))
        return changed

    def _settled(self, folder: Path, job: Job) -> Job:
        over = dataclasses.replace(job, pid=None, ended=state.now())
        if state.finished(folder):
            return dataclasses.replace(over, state=DONE, exit_code=0, reason="")
        if job.state == CANCELLING or state.cancel_asked(folder):
            return self._cancelled(job)
        if job.attempts and job.attempts < MOST_ATTEMPTS:
            return dataclasses.replace(job, state=QUEUED, pid=None)
        what = (
            f"Its worker died {job.attempts} times, perhaps for lack of memory; {state.LOG} in its folder may say why."
        )
        if not job.attempts:  # a person's own, who may not want it to go on behind their back
            what = f"Its process was ended; continue with `polymode generate --resume {quoted(folder)}`."
        return dataclasses.replace(over, state=FAILED, exit_code=1, reason=what)


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _turn_on_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait by itself for other processes that open a new database at the same moment."""
    for _ in range(round(PATIENCE / 0.02)):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as e:
            if not getattr(e, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                raise
            time.sleep(0.02)
    raise sqlite3.OperationalError("database is locked")


def _running(job: Job, pid: int) -> Job:
    return dataclasses.replace(
        job, state=RUNNING, started=state.now(), ended=None, pid=pid, attempts=job.attempts + 1, reason=""
    )
