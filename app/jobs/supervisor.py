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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.errors import UsageError
from app.jobs import state
from app.jobs.index import Index
from app.jobs.state import CANCELLING, QUEUED, RUNNING, Job

GRACE = 1.2  # seconds between asking a run to stop and ending its worker
SILENT = 120.0  # seconds without a heartbeat after which a worker is taken for dead
TICK = 0.2
EARLY, TRIES = 10.0, 3  # a worker that ends within EARLY seconds, TRIES times, will not be started again


@dataclass
class Slot:
    """A place for one worker. `device` is cpu or cuda, `gpu` the number of its GPU."""

    device: str
    threads: int
    gpu: int | None = None
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    failures: int = 0

    def devices(self) -> tuple[str, str]:
        return ("auto", self.device)


def slots(workers: int, device: str = "auto") -> list[Slot]:
    """One slot a GPU where there are any and `device` allows; otherwise `workers` slots that share the CPU's cores."""
    if device != "cpu":
        import torch

        count = torch.cuda.device_count()
        if count:
            return [Slot("cuda", 0, k) for k in range(count)]
    threads = max(1, (os.cpu_count() or 1) // workers)
    return [Slot("cpu", threads) for _ in range(workers)]


@dataclass
class Supervisor:
    """Workers of one folder of runs. `trouble`: a sentence where workers cannot be started, or empty."""

    root: Path
    slots: Sequence[Slot]
    idle: float = 300.0
    trouble: str = ""
    index: Index = field(init=False)

    def __post_init__(self) -> None:
        self.index = Index(self.root)
        folder = self.root / ".supervisor"
        folder.mkdir(exist_ok=True)
        self._lock = state.lock(folder)
        if self._lock is None:
            raise UsageError(
                f"Another Polymode works on {self.root} already (polymode serve, batch or jobs work); stop it, or "
                "choose another folder with --runs."
            )
        self._ended = threading.Event()

    def tick(self) -> None:
        """Look after everything once."""
        active = self.index.list((RUNNING, CANCELLING))
        for job in active:
            if self._to_end(job):
                self._kill(job)
        if active:
            self.index.recover()
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is not None:
                self._buried(slot)
            if slot.process is None and self._wanted(slot):
                self._start(slot)

    def _to_end(self, job: Job) -> bool:
        """Whether the job's worker, one of ours, must be ended."""
        if not any(s.process is not None and s.process.pid == job.pid for s in self.slots):
            return False
        folder, now = self.root / job.id, time.time()
        with contextlib.suppress(OSError):
            if job.state == CANCELLING and now - (folder / state.CANCEL).stat().st_mtime > GRACE:
                return True
        with contextlib.suppress(OSError):
            return now - max((folder / state.HEARTBEAT).stat().st_mtime, job.started or 0) > SILENT
        return False

    def _kill(self, job: Job) -> None:
        for slot in self.slots:
            if slot.process is not None and slot.process.pid == job.pid:
                end_group(slot.process)
                slot.process = None

    def _buried(self, slot: Slot) -> None:
        assert slot.process is not None
        early = slot.process.returncode != 0 and time.monotonic() - slot.began < EARLY
        slot.failures = slot.failures + 1 if early else 0
        slot.process = None

    def _wanted(self, slot: Slot) -> bool:
        if slot.failures >= TRIES:
            self.trouble = f"Workers end as soon as they are started; {self._log(slot)} says why."
            return False
        return any(j.device in slot.devices() for j in self.index.list((QUEUED,)))

    def _log(self, slot: Slot) -> Path:
        return self.root / ".supervisor" / f"worker-{list(self.slots).index(slot)}.log"

    def _start(self, slot: Slot) -> None:
        environment = dict(os.environ)
        if slot.threads:  # numba and BLAS read these when they are first imported
            environment |= {n: str(slot.threads) for n in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
        if slot.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot.gpu)
        command = [sys.executable, "-m", "app.jobs.worker", "--root", str(self.root), "--device", slot.device]
        command += ["--threads", str(slot.threads), "--idle", str(self.idle)]
        with self._log(slot).open("wb") as log:
            slot.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        slot.began = time.monotonic()

    def run(self, until: Callable[[], bool]) -> None:
        """Tick until `until()` or `stop`; call in a thread of its own, or as a command's body."""
        try:
            while not self._ended.is_set() and not until():
                try:
                    self.tick()
                except (UsageError, OSError) as e:  # a full disk, a damaged index: said, and tried again
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
                slot.process = None
        with contextlib.suppress(UsageError, OSError):
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


@contextlib.contextmanager
def until_signal(supervisor: Supervisor) -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM stop the supervisor; yields whether one came."""
    came = False

    def stop(signum: int, frame: object) -> None:
        nonlocal came
        came = True
        supervisor.stop()

    previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)


def empty(index: Index) -> bool:
    """Whether nothing is queued or running."""
    return not index.list((QUEUED, RUNNING, CANCELLING), limit=1)
