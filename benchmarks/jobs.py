"""A worker over many jobs: its memory, and how fast it lets go of the CPU when a job is cancelled.

    python -m benchmarks.jobs [--count 20] [--cancels 10] [--threads N]

Runs `--count` direct jobs one after another through one worker and prints its resident memory after each; asserts that
it grows by at most 5 % from the third job to the last. Then cancels `--cancels` runs at random moments, each after a
random part of a run's time, and prints the seconds until the job says that it is cancelled and until its worker's CPU
time stands still; asserts that both are at most two.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from app.jobs.index import Index
from app.jobs.state import CANCELLED, DONE, FINISHED, PROGRESS, QUEUED, RUNNING, read_json
from app.jobs.submit import submit
from app.jobs.supervisor import Supervisor, slots
from app.recipes import Recipe, preset

GROWTH, SECONDS = 0.05, 2.0
STILL, WINDOW = 0.2, 0.25  # of one core, seconds: below that share of a window the CPU has fallen


def recipe(seed: int) -> Recipe:
    return dataclasses.replace(preset("draft"), prompt="a red mushroom", method="direct", seed=seed)


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid: int) -> float | None:
    """CPU time of a process and its finished children, or None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def until(what: Callable[[], bool], pause: float = 0.01) -> None:
    while not what():
        time.sleep(pause)


def memory(index: Index, count: int) -> tuple[list[float], float]:
    """Resident MB of the worker after each of `count` jobs, and the seconds that the last one took."""
    sizes, pids, took = [], set(), 0.0
    for k in range(count):
        id = submit(index, recipe(k), name=f"memory-{k}").id
        until(lambda id=id: index.get(id).state == RUNNING)
        pid = index.get(id).pid
        assert pid is not None
        until(lambda id=id: index.get(id).state not in (QUEUED, RUNNING), 0.1)
        job = index.get(id)
        assert job.state == DONE, job
        took = (job.ended or 0) - (job.started or 0)
        pids.add(pid)
        sizes.append(resident_mb(pid))
        print(f"job {k + 1:2d}: {sizes[-1]:7.1f} MB resident, {took:.1f} s", flush=True)
    assert len(pids) == 1, "one worker did them all"
    return sizes, took


def cancellations(index: Index, count: int, longest: float) -> list[tuple[float, float]]:
    """(seconds to the state, seconds to the fallen CPU) of cancels at random moments of a run."""
    chance, out = random.Random(0), []
    while len(out) < count:
        k = len(out)
        id = submit(index, recipe(k), name=f"cancel-{k}").id
        until(lambda id=id: index.get(id).state == RUNNING)
        time.sleep(chance.uniform(0, longest))
        job = index.get(id)
        if job.state != RUNNING:
            print(f"cancel {k + 1:2d}: the run was over", flush=True)
            continue
        pid, stage = job.pid or 0, (read_json(index.root / id / PROGRESS) or {}).get("stage", "loading")
        began = time.monotonic()
        index.cancel(id)
        until(lambda id=id: index.get(id).state in FINISHED)
        if index.get(id).state != CANCELLED:
            print(f"cancel {k + 1:2d} in {stage:<8}: the run came to its end first", flush=True)
            continue
        state_after = time.monotonic() - began
        while True:  # the first window in which the CPU stood still; its beginning counts
            start, before = time.monotonic() - began, cpu_seconds(pid)
            time.sleep(WINDOW)
            after = cpu_seconds(pid)
            if before is None or after is None or after - before < STILL * WINDOW:
                break
        out.append((state_after, start))
        print(f"cancel {k + 1:2d} in {stage:<8}: cancelled {state_after:.2f} s, CPU still {start:.2f} s", flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--cancels", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = Index(Path(folder) / "runs")
        places = slots(1, "cpu")
        places[0].threads = a.threads
        supervisor = Supervisor(index.root, places)
        thread = threading.Thread(target=supervisor.run, args=(lambda: False,))
        thread.start()
        try:
            sizes, took = memory(index, a.count)
            growth = sizes[-1] / sizes[min(2, len(sizes) - 1)] - 1
            print(f"memory, job {min(3, len(sizes))} to {len(sizes)}: {growth:+.1%}", flush=True)
            found = cancellations(index, a.cancels, took)
        finally:
            supervisor.stop()
            thread.join()
    for name, values in zip(("cancelled", "CPU still"), zip(*found, strict=True), strict=False):
        print(f"{name}: median {statistics.median(values):.2f} s, slowest {max(values):.2f} s")
    assert growth <= GROWTH, f"the worker's memory grew by {growth:.1%}"
    assert all(max(pair) <= SECONDS for pair in found), "a cancelled job kept its worker's CPU for too long"


if __name__ == "__main__":
    main()
