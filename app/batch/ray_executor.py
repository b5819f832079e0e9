"""The batch's jobs on a Ray cluster: an actor a GPU, or one for every N cores.

An actor looks after one worker process (app/jobs/worker.py), in a folder of its own on its node. The driver claims a
job from the batch's folder, sends the run's files, and asks twice a second for those that have changed: progress,
previews, checkpoints, results. A job whose node is lost goes back into the queue, and on from the last checkpoint that
came back. The driver holds the runs' locks: when it dies, the next start finds its jobs as those of a dead worker.

Polymode must be installed on every node, in the same version.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from app.errors import FULL, DiskError, MissingError, UsageError, as_user_error
from app.jobs import state
from app.jobs.index import MOST_ATTEMPTS, Index
from app.jobs.state import CANCELLED, CANCELLING, FAILED, FINISHED, QUEUED, Job
from app.jobs.supervisor import Slot, Supervisor
from app.run.folder import atomic
from app.text import quoted

LOOK = 0.5  # seconds between looks at an actor
COUNT = 5.0  # seconds between counts of the cluster's room
PREFIX = "polymode-batch-"  # of an actor's folder among the temporary ones
ANY = ("auto", "cpu", "cuda")
REST = 20.0  # seconds in which actors put their jobs back


class Runner:
    """The actor: runs one job at a time by a worker process of its own, on the CPU with `threads`, or on its GPU."""

    def __init__(self, threads: int):
        sweep()
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX))
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]  # Ray's choice
        slot = Slot("cpu", threads) if threads else Slot("cuda", 0, gpu)
        self.supervisor = Supervisor(self.root, [slot], idle=600.0)
        self.index = self.supervisor.index
        self.id = ""
        self.sent: dict[str, tuple[int, int]] = {}

    def ready(self) -> bool:
        return True

    def begin(self, job: dict[str, Any], files: dict[str, bytes]) -> None:
        """Queue a job with the files of its run folder."""
        fresh = dataclasses.replace(Job(**job), state=QUEUED, pid=None, attempts=0)
        folder = self.root / fresh.id
        folder.mkdir()
        for name in ("checkpoints", "previews"):
            (folder / name).mkdir()
        write_files(folder, files)
        self.id, self.sent = fresh.id, {name: stamp(folder / name) for name in files}
        self.index.put(fresh)

    def look(self, cancel: bool = False) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The job, and the files that have changed since the last look; those of a finished job leave this node."""
        self.supervisor.tick()
        if self.supervisor.stuck():
            raise RuntimeError(self.supervisor.trouble)
        job = self.index.get(self.id)
        if cancel and job.state not in (*FINISHED, CANCELLING):
            job = self.index.cancel(self.id)
        return self._news(job)

    def stop(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """End the worker after its step; what has changed, or None without a job."""
        self.supervisor.stop()
        self.supervisor.run(lambda: True)
        news = self._news(self.index.get(self.id)) if self.id else None
        shutil.rmtree(self.root, ignore_errors=True)
        return news

    def _news(self, job: Job) -> tuple[dict[str, Any], dict[str, bytes]]:
        folder = self.root / self.id
        files = read_files(folder, self.sent)
        if job.state in FINISHED:
            self.id, self.sent = "", {}
            shutil.rmtree(folder, ignore_errors=True)
        return dataclasses.asdict(job), files


def sweep() -> None:
    """Remove what actors that were killed left on this node: folders of ours whose lock nobody holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            inside = folder / ".supervisor"
            if (inside / state.LOCK).is_file() and not state.held(inside):
                shutil.rmtree(folder, ignore_errors=True)


def stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def read_files(folder: Path, known: dict[str, tuple[int, int]]) -> dict[str, bytes]:
    """{name: bytes} of a run's files that are not as `known`, which learns of them. Newest first: where a checkpoint
    is there, those of earlier stages are read later, and are whole."""
    found: list[tuple[tuple[int, int], Path]] = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if not path.name.startswith(".") and path.name != state.JOB and path.is_file():
                found.append((stamp(path), path))
    out: dict[str, bytes] = {}
    for at, path in sorted(found, reverse=True):
        name = path.relative_to(folder).as_posix()
        if known.get(name) != at:
            with contextlib.suppress(FileNotFoundError):
                out[name] = path.read_bytes()
                known[name] = at
    return out


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Into a run folder, each at once, and metadata.json, which says that a run is over, last. ValueError for a name
    that leads elsewhere."""
    for name in sorted(files, key=lambda n: n == "metadata.json"):
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or any(p.startswith(".") for p in parts):
            raise ValueError(f"{name!r} is no name of a run's file")
        target = folder.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as path:
            path.write_bytes(files[name])


@dataclass
class Actor:
    """An actor as the driver knows it. `pending`: the answer that it waits for; `lock`: of its job's run."""

    handle: Any
    pending: Any
    ready: bool = False
    job: Job | None = None
    lock: int = -1
    asked: float = 0.0


class RayExecutor:
    """UsageError where the cluster cannot be reached or has no room, MissingError without Ray."""

    here = False

    def __init__(self, root: Path, address: str, workers: int, cores: int):
        self.ray = import_ray()
        self.index, self.root, self.most, self.cores = Index(root), root, workers, cores
        folder = root / ".supervisor"
        folder.mkdir(exist_ok=True)
        self._lock = state.lock(folder)
        if self._lock is None:
            raise UsageError(
                f"Another Polymode works on {root} already; stop it, or choose another folder with --out."
            )
        self.actors: list[Actor] = []
        self.room, self.counted, self.note = 0, 0.0, ""
        self._quiet = contextlib.ExitStack()  # Ray prints what happens to its nodes to stdout, which is the summary's
        log = self._quiet.enter_context((folder / "ray.log").open("a", encoding="utf-8"))
        self._quiet.enter_context(contextlib.redirect_stdout(log))
        try:
            self._connect(address)
            self.gpus = self.ray.cluster_resources().get("GPU", 0) >= 1
            self.kind = self.ray.remote(max_restarts=0, max_task_retries=0, **self._need())(Runner)
            self._count()
            if not self.room:
                raise UsageError(f"No node of the Ray cluster has {cores} cores; give fewer with --cores-per-worker.")
        except BaseException:
            self.stop()
            raise

    def _connect(self, address: str) -> None:
        try:
            self.ray.init(
                address=address or None, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True
            )
        except (ConnectionError, ValueError, RuntimeError, OSError) as e:
            why = (str(e).strip().splitlines() or [type(e).__name__])[0][:200].rstrip(".")
            raise UsageError(
                f"The Ray cluster {address or 'of this machine'} cannot be reached ({why}); check --address."
            ) from e

    def _need(self) -> dict[str, Any]:
        """What an actor takes of its node."""
        return {"num_gpus": 1, "num_cpus": 0} if self.gpus else {"num_cpus": self.cores}

    def _count(self) -> None:
        """How many actors the living nodes hold."""
        name, each = ("GPU", 1) if self.gpus else ("CPU", self.cores)
        nodes = [n["Resources"] for n in self.ray.nodes() if n["Alive"]]
        room = sum(int(r.get(name, 0) // each) for r in nodes)
        self.room, self.counted = min(room, self.most or room), time.monotonic()

    def width(self) -> int:
        return max(1, self.room)

    def tick(self) -> str:
        """Start actors where there is room, give out jobs, take in what comes back."""
        if time.monotonic() - self.counted > COUNT:
            self._count()
        wanted = min(self.room, len(self.index.list((QUEUED,))) + sum(a.job is not None for a in self.actors))
        while len(self.actors) < wanted:
            handle = self.kind.remote(0 if self.gpus else self.cores)
            self.actors.append(Actor(handle, handle.ready.remote()))
        for actor in list(self.actors):
            try:
                self._serve(actor)
            except DiskError:
                raise
            except Exception as e:
                self._spoilt(actor, e)
        return self.note if self.room else "No node of the cluster has room; waiting for one."

    def _serve(self, actor: Actor) -> None:
        if actor.pending is not None:
            if not self.ray.wait([actor.pending], timeout=0)[0]:
                return
            try:
                answer = self.ray.get(actor.pending)
            except self.ray.exceptions.RayError as e:
                self._lost(actor, e)
                return
            actor.pending = None
            if not actor.ready:
                actor.ready = True
            elif answer is not None:
                self._take(actor, *answer)
        if actor.job is None:
            self._give(actor)
        elif time.monotonic() - actor.asked > LOOK:
            actor.asked = time.monotonic()
            actor.pending = actor.handle.look.remote(state.cancel_asked(self.root / actor.job.id))

    def _give(self, actor: Actor) -> None:
        claimed = self.index.claim(ANY, os.getpid())
        if claimed is not None:
            actor.job, actor.lock = claimed
            files = read_files(self.root / actor.job.id, {})
            actor.pending = actor.handle.begin.remote(dataclasses.asdict(actor.job), files)

    def _take(self, actor: Actor, job: dict[str, Any], files: dict[str, bytes]) -> None:
        """Files first, then the state."""
        assert actor.job is not None
        try:
            write_files(self.root / actor.job.id, files)
        except OSError as e:
            if e.errno not in FULL:
                raise
            raise DiskError(f"{self.root} cannot be written ({e.strerror}); make room, then start again.") from e
        came = Job(**job)
        if came.state in FINISHED:
            cancelled = came.state == CANCELLED
            again = f"Cancelled; continue with `polymode jobs resume {quoted(came.id)}`."
            self.index.end(came.id, came.state, came.exit_code or 0, again if cancelled else came.reason)
            self._free(actor)

    def _spoilt(self, actor: Actor, e: Exception) -> None:
        """An error that came of an actor's job: that job fails, and the others go on."""
        if actor.job is None:
            raise e
        self._discard(actor)
        told = as_user_error(e)
        with contextlib.suppress(UsageError):  # its folder is gone
            self.index.end(actor.job.id, FAILED, told.exit_code, str(told))
        self._free(actor)

    def _discard(self, actor: Actor) -> None:
        """An actor that is not to be asked again; another takes its place."""
        if actor in self.actors:
            self.actors.remove(actor)
        with contextlib.suppress(Exception):
            self.ray.kill(actor.handle)

    def _free(self, actor: Actor) -> None:
        state.unlock(actor.lock)
        actor.job, actor.lock = None, -1

    def _lost(self, actor: Actor, e: Exception) -> None:
        """A node, or the actor's process, is gone, or its worker cannot be started: the job goes elsewhere."""
        self._discard(actor)
        self._count()
        if actor.job is None:
            return
        id, why = actor.job.id, (str(e).strip().splitlines() or [type(e).__name__])[-1][:200]
        self.note = f"A worker of the cluster was lost; {id} is run again elsewhere."
        attempts = self.index.get(id).attempts
        if attempts >= MOST_ATTEMPTS:
            self.index.end(id, FAILED, 1, f"Its worker on the cluster was lost {attempts} times: {why}")
        self._free(actor)
        self.index.recover()  # nobody holds the run's lock now, so that it is queued again

    def stop(self) -> None:
        """Bring back what running jobs have, and put them back."""
        try:
            self._rest()
        finally:
            for actor in self.actors:
                if actor.job is not None:
                    with contextlib.suppress(OSError, UsageError, DiskError):
                        self.index.release(actor.job.id)
                    self._free(actor)
            self.ray.shutdown()
            self._quiet.close()
            if self._lock is not None:
                state.unlock(self._lock)
                self._lock = None

    def _rest(self) -> None:
        waiting = {a.handle.stop.remote(): a for a in self.actors if a.ready}
        until = time.monotonic() + REST
        while waiting and time.monotonic() < until:
            for reference in self.ray.wait(list(waiting), timeout=0.5)[0]:
                actor = waiting.pop(reference)
                answers = [actor.pending, reference]
                for r in answers:
                    with contextlib.suppress(self.ray.exceptions.RayError):
                        answer = None if r is None else self.ray.get(r)
                        if actor.job is not None and isinstance(answer, tuple):
                            self._take(actor, *answer)


def import_ray() -> Any:
    """The package, which reports nothing to anybody. MissingError without it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as e:
        raise MissingError(
            "--executor ray needs Ray; install it with `pip install '.[ray]'` in Polymode's own folder."
        ) from e
    return ray
