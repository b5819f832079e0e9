"""The worker: a process that takes queued jobs of some devices, one after another, and runs them.

    python -m app.jobs.worker --root runs --threads 2 --idle 300

The supervisor (app/jobs/supervisor.py) starts it. It touches the run's heartbeat every second, writes progress.json
and log.txt beside the run, keeps loaded priors for the next job, and ends after `idle` seconds without one, which
unloads all. When its parent is gone, or it is asked to end (SIGTERM), it stops after the current step and puts the
job back.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from app.errors import NO_MEMORY, OUT_OF_MEMORY, Cancelled, UserError, out_of_memory
from app.jobs import state
from app.jobs.index import Index
from app.jobs.state import CANCELLED, DONE, FAILED, QUEUED, Job
from app.models import load_prior
from app.pipeline import generate
from app.recipe_yaml import load_recipe
from app.recipes import check
from app.run.folder import Run, atomic
from app.run.progress import Progress, Status
from app.run.work import Clock, choose_device
from guidance.priors.embedded import EmbeddedPrior

POLL = 0.2  # seconds between looks into the queue
BEAT = 1.0
STATUS_EVERY = 0.3
KEPT = 2  # priors


@dataclass
class Priors:
    """Loaded priors, the latest last."""

    loaded: dict[tuple[str, str, str], EmbeddedPrior] = field(default_factory=dict)

    def get(self, name: str, device: torch.device, precision: str) -> EmbeddedPrior:
        key = (name, str(device), precision)
        prior = self.loaded.pop(key, None) or load_prior(name, device, precision)
        while len(self.loaded) >= KEPT:
            del self.loaded[next(iter(self.loaded))]
        self.loaded[key] = prior
        prior.forget()
        return prior


class Heart:
    """A thread that touches the heartbeat of the run at work, and asks it to stop when the worker shall end, or its
    parent is gone."""

    def __init__(self, parent: int, stop: threading.Event):
        self.parent, self.stop = parent, stop
        self.folder: Path | None = None
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while True:
            folder = self.folder
            if folder is not None:
                with contextlib.suppress(OSError):
                    (folder / state.HEARTBEAT).touch()
            if os.getppid() != self.parent:
                self.stop.set()
            if self.stop.is_set():  # again and again: only a run that has begun hears it
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(BEAT)


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """stdout and stderr, of native code too, go to the end of `path`."""
    with path.open("ab") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for handle, target in zip(saved, (1, 2), strict=True):
            os.dup2(handle, target)
            os.close(handle)


@dataclass
class StatusFile:
    """Writes progress.json at most every STATUS_EVERY seconds, and whenever a stage begins or ends."""

    folder: Path
    last: float = 0.0
    stage: str = ""

    def __call__(self, status: Status) -> None:
        now = time.monotonic()
        if now - self.last < STATUS_EVERY and status.stage == self.stage and status.step < status.steps:
            return
        self.last, self.stage = now, status.stage
        with contextlib.suppress(OSError), atomic(self.folder / state.PROGRESS) as path:
            path.write_text(json.dumps(dataclasses.asdict(status) | {"time": round(time.time(), 2)}), encoding="utf-8")


def run_job(index: Index, job: Job, priors: Priors) -> Job:
    """Run a claimed job to its end, whatever that is; queued again where it stopped and nobody had cancelled it."""
    folder = index.root / job.id
    run, clock = Run(folder), Clock()
    state.sweep(folder)
    (folder / state.PROGRESS).unlink(missing_ok=True)
    for needed in (run.checkpoints, run.previews):
        needed.mkdir(exist_ok=True)
    with logging_to(folder / state.LOG):
        try:
            recipe = load_recipe(folder / "config.yaml")
            check(recipe)
            prior = priors.get(recipe.prior, choose_device(recipe.device), recipe.precision)
            progress = Progress(listener=StatusFile(folder))
            generate(recipe, run, progress, clock, prior, live=True)
            return index.end(job.id, DONE, 0)
        except Cancelled as e:
            if state.cancel_asked(folder):
                return index.end(job.id, CANCELLED, e.exit_code, str(e))
            return index.release(job.id)
        except UserError as e:
            sys.stderr.write(f"{e}\n")
            return index.end(job.id, FAILED, e.exit_code, str(e))
        except Exception as e:
            traceback.print_exc()
            if out_of_memory(e):
                return index.end(job.id, FAILED, OUT_OF_MEMORY, NO_MEMORY)
            reason = (
                f"An error of Polymode itself ({type(e).__name__}); {state.LOG} in the run's folder has the details."
            )
            return index.end(job.id, FAILED, 1, reason)


def work(root: Path, devices: Sequence[str], idle: float, stop: threading.Event, parent: int) -> int:
    """Take jobs until `stop`, or `idle` seconds without one, or the process `parent` is gone."""
    index, priors, heart = Index(root), Priors(), Heart(parent, stop)
    last = time.monotonic()
    while not stop.is_set():
        try:
            claimed = index.claim(devices, os.getpid())
        except (UserError, OSError) as e:  # a full disk: the queue waits for room
            sys.stderr.write(f"{e}\n")
            stop.wait(2)
            continue
        if claimed is None:
            if time.monotonic() - last > idle:
                return 0
            stop.wait(POLL)
            continue
        job, handle = claimed
        heart.folder = root / job.id
        try:
            if run_job(index, job, priors).state == QUEUED:
                stop.set()
        except (UserError, OSError) as e:  # its end could not be written: the supervisor will settle it
            sys.stderr.write(f"{job.id}: {e}\n")
            stop.wait(2)
        finally:
            heart.folder = None
            state.unlock(handle)
        last = time.monotonic()
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.jobs.worker")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--devices", nargs="+", default=["auto", "cpu"])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--idle", type=float, default=300.0)
    parser.add_argument("--parent", type=int, default=os.getppid())
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    stop = threading.Event()
    # between jobs a signal ends the loop; within one the pipeline's own handler stops the run first
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    sys.exit(work(a.root, a.devices, a.idle, stop, a.parent))


if __name__ == "__main__":
    main()
