"""The supervisor: keeps one worker process a device while there is work, ends what does not stop, and recovers what
died.

A cancelled job that has not stopped GRACE seconds after it was asked is ended with its worker: its last checkpoint
stays. One supervisor a folder of runs, held by a lock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.errors import DiskError, UsageError, UserError
from app.jobs import state
from app.jobs.index import Index
from app.jobs.state import ACTIVE, CANCELLING, GRACE, QUEUED, Job

SILENT = 120.0  # seconds without a heartbeat after which a worker is taken for dead
TICK = 0.2
MOST_WORKERS = 1024
TRIES = 3  # so many workers, one after another, that fail before they have taken a job, and no more are started


@dataclass
class Slot:
    """A place for one worker. `device` is cpu or cuda; `gpu` the number or id of its GPU; `threads` on the CPU."""

    device: str
    threads: int
    gpu: int | str | None = None
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0


def slots(workers: int, device: str = "auto") -> list[Slot]:
    """One slot a GPU where there are any and `device` allows; otherwise `workers` slots that share the CPU's cores.
    One alone has as many threads as a run in a terminal (0: torch's own choice): both give the same bytes."""
    if workers < 1:
        raise UsageError(f"{workers} workers do nothing; give 1 or more with --workers.")
    if workers > MOST_WORKERS:
        raise UsageError(f"--workers {workers} is out of range; use 1 to {MOST_WORKERS}.")
    if device != "cpu":
        import torch

        count = torch.cuda.device_count()
        if count:
            return [Slot("cuda", 0, k) for k in range(count)]
    threads = 0 if workers == 1 else max(1, (os.cpu_count() or 1) // workers)
    return [Slot("cpu", threads) for _ in range(workers)]


@dataclass
class Supervisor:
    """Workers of one folder of runs. `trouble`: a sentence where nothing can be run now, or empty."""

    root: Path
    slots: Sequence[Slot]
    idle: float = 300.0
    trouble: str = ""
    index: Index = field(init=False)

    def __post_init__(self) -> None:
        self.index = Index(self.root)
        folder = self.root / ".supervisor"
        try:
            folder.mkdir(exist_ok=True)
            self._lock = state.lock(folder)
        except OSError as e:
            raise DiskError(f"{folder} cannot be written ({e.strerror}); choose another folder with --runs.") from e
        if self._lock is None:
            raise UsageError(
                f"Another Polymode works on {self.root} already (polymode serve, batch or jobs work); stop it, or "
                "choose another folder with --runs."
            )
        self._ended = threading.Event()
        self._beats: dict[str, tuple[float, float]] = {}
        self._asked: dict[str, float] = {}

    def tick(self) -> None:
        """Look after everything once."""
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is not None:
                self._bury(slot)
        active = self.index.list(ACTIVE)
        self._beats = {j.id: self._beats[j.id] for j in active if j.id in self._beats}
        self._asked = {j.id: self._asked[j.id] for j in active if j.id in self._asked and j.state == CANCELLING}
        for job in active:
            slot = next((s for s in self.slots if s.process is not None and s.process.pid == job.pid), None)
            if slot is None or slot.process is None:
                continue
            slot.failures = 0
            if self._to_end(job):
                end_group(slot.process)
                slot.process = None
        if active:
            self.index.recover()
        waiting = {j.device for j in self.index.list((QUEUED,))}
        if waiting:
            self.index.check_writable()
        for slot in self.slots:
            if slot.process is None and slot.failures < TRIES and not waiting.isdisjoint(self.devices(slot)):
                self._start(slot)
        why = f"Workers end as soon as they are started; {self._log(self.slots[0])} says why."
        self.trouble = why if self.stuck() else ""

    def devices(self, slot: Slot) -> tuple[str, ...]:
        """What the slot's worker takes: jobs of its device, and of devices that no slot has. On a GPU's slot jobs for
        the CPU run there too; without a GPU jobs for one fail, and say so."""
        return ("auto", slot.device, *sorted({"cpu", "cuda"} - {s.device for s in self.slots}))

    def stuck(self) -> bool:
        """Whether no worker can be started."""
        return all(s.failures >= TRIES for s in self.slots)

    def _to_end(self, job: Job) -> bool:
        """Whether the job's worker, one of ours, must be ended; by a clock that stops while the machine sleeps."""
        now = time.monotonic()
        if job.state == CANCELLING and now - self._asked.setdefault(job.id, now) > GRACE:
            return True
        with contextlib.suppress(OSError):
            beat = (self.root / job.id / state.HEARTBEAT).stat().st_mtime
            if self._beats.get(job.id, (None, 0.0))[0] != beat:
                self._beats[job.id] = (beat, now)
            return now - self._beats[job.id][1] > SILENT
        return False

    def _bury(self, slot: Slot) -> None:
        assert slot.process is not None
        pid, code = slot.process.pid, slot.process.returncode
        end_group(slot.process)  # what it had started
        slot.process = None
        idle = not any(j.pid == pid for j in self.index.list(ACTIVE))  # otherwise that job may have been its death
        slot.failures = slot.failures + 1 if code != 0 and idle else 0

    def _log(self, slot: Slot) -> Path:
        return self.root / ".supervisor" / f"worker-{list(self.slots).index(slot)}.log"

    def _start(self, slot: Slot) -> None:
        environment = dict(os.environ)
        if slot.threads:  # numba and BLAS read these when they are first imported
            environment |= {n: str(slot.threads) for n in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
        environment["CUDA_VISIBLE_DEVICES"] = "" if slot.gpu is None else str(slot.gpu)
        command = [sys.executable, "-m", "app.jobs.worker", "--root", str(self.root), "--parent", str(os.getpid())]
        command += ["--threads", str(slot.threads), "--idle", str(self.idle), "--devices", *self.devices(slot)]
        with self._log(slot).open("wb") as log:
            slot.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def run(self, until: Callable[[], bool]) -> None:
        """Tick until `until()` or `stop`; call in a thread of its own, or as a command's body."""
        try:
            while not self._ended.is_set() and not until():
                try:
                    self.tick()
                except (UserError, OSError) as e:  # a full disk, a damaged index: said, and tried again
                    self.trouble = str(e)
                    self._ended.wait(2)
                self._ended.wait(TICK)
        finally:
            self._close()

    def stop(self) -> None:
        """Ask `run` to end."""
        self._ended.set()

    def _close(self) -> None:
        """Workers stop after their current step, and put their jobs back; those that do not are ended."""
        for slot in self.slots:
            if slot.process is not None:
                slot.process.terminate()
        for slot in self.slots:
            if slot.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    slot.process.wait(10)
                end_group(slot.process)
                with contextlib.suppress(UserError, OSError):
                    for job in self.index.list(ACTIVE):
                        if job.pid == slot.process.pid:  # it did not put its job back
                            self.index.release(job.id)
                slot.process = None
        with contextlib.suppress(UserError, OSError):
            self.index.recover()
        if self._lock is not None:
            state.unlock(self._lock)
            self._lock = None


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a worker and the processes that it started."""
    with contextlib.suppress(OSError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def empty(index: Index) -> bool:
    """Whether nothing is queued or running."""
    return not index.list((QUEUED, *ACTIVE), limit=1)
