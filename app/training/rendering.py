"""Frames for a training: drawn in worker processes, handed over in shared memory, kept in one tensor on the device.

A frame is stored as round(254 v) bytes, so that mid-grey, the background, is exact.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import UserError
from app.training.augment import recolored
from app.training.data import Mesh, Pack, open_arrays
from app.training.sets import CHUNK, FRAMES, Chunk, Sets
from renderers.cameras import make_cameras
from renderers.snapshot import compile_kernels, snapshots

CHANNELS = 7
LEVELS = 254  # of a byte


def draw(meshes: Sequence[Mesh], azimuth: NDArray[np.float32], elevation: NDArray[np.float32], size: int) -> Tensor:
    """Frames (N * V, 7, size, size) in [0, 1] of N meshes from views (N, V)."""
    each = [m for m in meshes for _ in range(azimuth.shape[1])]
    cameras = make_cameras(torch.from_numpy(azimuth.reshape(-1)), torch.from_numpy(elevation.reshape(-1)))
    return torch.from_numpy(snapshots(each, cameras, size))


# --- in a worker process ---


@dataclass(frozen=True)
class Bench:
    """What a worker has at hand: `slots` (S, CHUNK * 5, 7, size, size) uint8 are the trainer's, too."""

    pack: Pack
    memory: SharedMemory
    slots: NDArray[np.uint8]
    size: int


_bench: Bench | None = None  # a worker process's own


def start_worker(arrays: Path, memory: str, slots: int, size: int) -> None:
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer hears it, and stops us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    with suppress(OSError):
        os.nice(5)
    torch.set_num_threads(1)
    compile_kernels()
    shared = SharedMemory(memory)
    _bench = Bench(open_arrays(arrays), shared, slots_in(shared, slots, size), size)


def slots_in(memory: SharedMemory, slots: int, size: int) -> NDArray[np.uint8]:
    return np.ndarray((slots, CHUNK * FRAMES, CHANNELS, size, size), np.uint8, memory.buf)


def end_with(parent: int) -> None:
    """End this process when its parent is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def render(
    objects: list[int],
    colors: list[str | None],
    azimuth: NDArray[np.float32],
    elevation: NDArray[np.float32],
    slot: int,
) -> list[bool]:
    """Draw a chunk into its slot. Which of the objects have the colour they were to get: some have no part that is
    large enough."""
    assert _bench is not None
    meshes, good = [], []
    for i, color in zip(objects, colors, strict=True):
        mesh = _bench.pack.mesh(i)
        other = mesh if color is None else recolored(mesh, color)
        good.append(other is not None)
        meshes.append(other or mesh)
    frames = draw(meshes, azimuth, elevation, _bench.size)
    _bench.slots[slot, : len(frames)] = (frames * LEVELS + 0.5).byte().numpy()
    return good


# --- in the trainer ---


class Pool:
    """All frames rendered so far: `frames` (sets * 5, 7 * size * size) uint8 on the device; their views (sets, 5) and
    which sets are `good` here. `random` and `recolored` rounds are whole."""

    def __init__(self, sets: Sets, size: int, device: torch.device, slots: Tensor, workers: ProcessPoolExecutor):
        self.sets, self.size, self.device, self.slots, self.workers = sets, size, device, slots, workers
        self.frames = torch.zeros(sets.number * FRAMES, CHANNELS * size * size, dtype=torch.uint8, device=device)
        self.azimuth = np.zeros((sets.number, FRAMES), np.float32)
        self.elevation = np.zeros((sets.number, FRAMES), np.float32)
        self.good = np.zeros(sets.number, bool)
        self.missing = Counter((c.kind, c.round) for c in sets.chunks)
        self.canonical, self.random, self.recolored, self.views = False, 0, 0, 0
        self.free = deque(range(len(slots)))
        self.under_way: deque[tuple[Chunk, int, Future[list[bool]]]] = deque()
        self.waiting: Iterator[Chunk] = iter(sets.chunks)

    def refresh(self) -> None:
        """From now on render without end."""
        self.waiting = chain(self.waiting, (c for g in count(1) for c in self.sets.again(g)))

    @property
    def complete(self) -> bool:
        return not any(self.missing.values())

    def take(self, most: int, wait: float = 0.0) -> int:
        """Take in up to `most` chunks that are rendered, the first of them for `wait` seconds at most; how many."""
        while self.free and (chunk := next(self.waiting, None)) is not None:
            slot = self.free.popleft()
            work = (self.sets.objects(chunk), self.sets.colors(chunk), *self.sets.views(chunk), slot)
            self.under_way.append((chunk, slot, self.workers.submit(render, *work)))
        taken = 0
        while taken < most and self.under_way:
            chunk, slot, future = self.under_way[0]
            try:
                good = future.result(timeout=wait if not taken else 0)
            except TimeoutError:
                break
            except BrokenProcessPool as e:
                raise UserError(
                    "A process that renders for the training was ended from outside, perhaps for want of memory; "
                    "start the same command again, with fewer --workers."
                ) from e
            self.under_way.popleft()
            self._keep(chunk, self.slots[slot, : chunk.count * FRAMES].flatten(1), good)
            self.free.append(slot)
            taken += 1
        return taken

    def _keep(self, chunk: Chunk, frames: Tensor, good: list[bool]) -> None:
        ids = slice(chunk.first, chunk.first + chunk.count)
        if self.device.type == "cuda":  # pinned, the copy does not wait for the steps that are under way
            frames = frames.pin_memory()
        self.frames[ids.start * FRAMES : ids.stop * FRAMES].copy_(frames, non_blocking=True)
        self.azimuth[ids], self.elevation[ids] = self.sets.views(chunk)
        self.good[ids] = good
        self.views += chunk.count * FRAMES
        if chunk.generation == 0:
            self.missing[chunk.kind, chunk.round] -= 1
            self.canonical = self.missing["canonical", 0] == 0
            self.random, self.recolored = self._whole("random"), self._whole("recolored")

    def _whole(self, kind: str) -> int:
        """Leading rounds of a kind that are there."""
        rounds = self.sets.random if kind == "random" else self.sets.recolored
        return next((r for r in range(rounds) if self.missing[kind, r] > 0), rounds)


@contextmanager
def rendering(sets: Sets, arrays: Path, size: int, device: torch.device, workers: int) -> Iterator[Pool]:
    """A pool, and the processes that fill it while the block lasts."""
    frame, slots = CHANNELS * size * size, 3 * workers
    memory = SharedMemory(create=True, size=slots * CHUNK * FRAMES * frame)
    setup = (arrays, memory.name, slots, size)
    executor = ProcessPoolExecutor(workers, get_context("spawn"), start_worker, setup)
    pool = Pool(sets, size, device, torch.from_numpy(slots_in(memory, slots, size)), executor)
    try:
        yield pool
    finally:
        for process in list((executor._processes or {}).values()):
            process.terminate()
        executor.shutdown(wait=True, cancel_futures=True)
        memory.unlink()  # its bytes go when the last view of them does
