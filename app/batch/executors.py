"""What runs the queued jobs of a batch's folder: worker processes here, or actors elsewhere (ray_executor.py).

Both take their jobs from the folder's index and leave states, progress and results in the run folders, so that
whoever looks at these need not know which it was.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

from app.errors import UsageError
from app.jobs.supervisor import Slot, Supervisor, slots

IDLE = 30.0  # seconds after which a worker without a job ends


class Executor(Protocol):
    """`here`: whether jobs run on this machine."""

    here: bool

    def width(self) -> int:
        """Jobs that it runs at once, now."""
        ...

    def tick(self) -> str:
        """Look after the jobs, often. Returns a sentence to show, or "". UsageError where nothing can run."""
        ...

    def stop(self) -> None:
        """Running jobs stop after their step, and go back into the queue."""
        ...


class LocalExecutor:
    """Worker processes of this machine, looked after by a thread. UsageError where another process works on the
    folder."""

    here = True

    def __init__(self, root: Path, workers: int, threads: int):
        self.supervisor = Supervisor(root, local_slots(workers, threads), IDLE)
        self._thread = threading.Thread(target=self.supervisor.run, args=(lambda: False,), name="supervisor")

    def width(self) -> int:
        return len(self.supervisor.slots)

    def tick(self) -> str:
        if self._thread.ident is None:
            self._thread.start()
        if self.supervisor.stuck() or not self._thread.is_alive():
            raise UsageError(self.supervisor.trouble or "The workers' supervisor ended; start the batch again.")
        return self.supervisor.trouble

    def stop(self) -> None:
        self.supervisor.stop()
        if self._thread.ident is None:
            self.supervisor.run(lambda: True)  # lets go of the folder
        else:
            self._thread.join()


def local_slots(workers: int, threads: int) -> list[Slot]:
    """Places for `workers` (0: one) on CPUs, or one a GPU, at most `workers` of them."""
    found = slots(workers or 1)
    if found[0].device == "cuda":
        return found[: workers or len(found)]
    for slot in found:
        slot.threads = threads or slot.threads
    return found
