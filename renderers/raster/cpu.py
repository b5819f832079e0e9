"""Visibility and silhouette search on the CPU, in numba; renderers/raster/twin.py has both in plain torch.

Visibility is a z-buffer over exact integer edge functions (renderers/raster/screen.py).

The B·H rows of all views are cut into as many equal ranges as torch has threads, and each range is filled by one
thread from beginning to end, so the result does not depend on the number of threads. Kernels are launched from one
Python thread.

Constants of other modules are kernel arguments: numba's cache would not notice that they changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numba import njit
from torch import Tensor

from renderers.raster.screen import (
    MAX_STEPS,
    SKIPPED,
    SLACK,
    SUBPIXEL_BITS,
    Crossings,
    Screen,
    project,
    snap,
)
from renderers.raster.topology import Topology, antialias_construct_topology_hash

T = TypeVar("T")
_POOL = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="raster")


@njit(cache=True, nogil=True)
def _fill_rows(xy, z, tri, height, width, bits, skipped, first, last, depth, ids):
    """Fill rows first..last-1 of the B·H rows: `depth` (B, H, W) float64, `ids` (B, H, W) int32, triangle + 1."""
    unit = np.int64(1) << bits
    half = unit // 2
    for view in range(first // height, (last + height - 1) // height):
        low = max(first - view * height, 0)
        high = min(last - view * height, height)
        for y in range(low, high):
            for x in range(width):
                depth[view, y, x] = np.inf
                ids[view, y, x] = 0
        for face in range(tri.shape[0]):
            i0 = tri[face, 0]
            i1 = tri[face, 1]
            i2 = tri[face, 2]
            y0 = np.int64(xy[view, i0, 1])
            y1 = np.int64(xy[view, i1, 1])
            y2 = np.int64(xy[view, i2, 1])
            # rows whose centres lie in [min y, max y]
            row0 = max((min(y0, y1, y2) + (unit - 1 - half)) >> bits, low)
            row1 = min((max(y0, y1, y2) - half) >> bits, high - 1)
            if row0 > row1:
                continue
            x0 = np.int64(xy[view, i0, 0])
            x1 = np.int64(xy[view, i1, 0])
            x2 = np.int64(xy[view, i2, 0])
            least = min(x0, x1, x2)
            if least == skipped:
                continue
            column0 = max((least + (unit - 1 - half)) >> bits, 0)
            column1 = min((max(x0, x1, x2) - half) >> bits, width - 1)
            if column0 > column1:
                continue
            area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
            if area == 0:
                continue
            z0 = z[view, i0]
            z1 = z[view, i1]
            z2 = z[view, i2]
            if area < 0:  # both orientations are drawn; walk the edges counter-clockwise
                area = -area
                x1, x2 = x2, x1
                y1, y2 = y2, y1
                z1, z2 = z2, z1
            dx0 = x2 - x1
            dy0 = y2 - y1
            dx1 = x0 - x2
            dy1 = y0 - y2
            dx2 = x1 - x0
            dy2 = y1 - y0
            # a centre exactly on an edge belongs to the side for which this holds: never to both, never to none
            keep0 = np.int64(0 if dy0 > 0 or (dy0 == 0 and dx0 < 0) else 1)
            keep1 = np.int64(0 if dy1 > 0 or (dy1 == 0 and dx1 < 0) else 1)
            keep2 = np.int64(0 if dy2 > 0 or (dy2 == 0 and dx2 < 0) else 1)
            px = column0 * unit + half
            py = row0 * unit + half
            start0 = dx0 * (py - y1) - dy0 * (px - x1)
            start1 = dx1 * (py - y2) - dy1 * (px - x2)
            start2 = dx2 * (py - y0) - dy2 * (px - x0)
            inverse = 1.0 / np.float64(area)
            for row in range(row0, row1 + 1):
                e0 = start0
                e1 = start1
                e2 = start2
                for column in range(column0, column1 + 1):
                    if e0 >= keep0 and e1 >= keep1 and e2 >= keep2:
                        d = (np.float64(e0) * z0 + np.float64(e1) * z1 + np.float64(e2) * z2) * inverse
                        if d < depth[view, row, column] and -1.0 <= d <= 1.0:
                            depth[view, row, column] = d
                            ids[view, row, column] = face + 1
                    e0 -= dy0 * unit
                    e1 -= dy1 * unit
                    e2 -= dy2 * unit
                start0 += dx0 * unit
                start1 += dx1 * unit
                start2 += dx2 * unit


@njit(cache=True, nogil=True)
def _search_rows(
    rast, points, tri, neighbour, opposite, max_steps, slack, first, last, out_pixel, out_forward, out_edge
):
    """Crossings of rows first..last-1 of the B·H rows, written from `out_*`[2 W first] on; returns how many."""
    height, width = rast.shape[1:3]
    begin = 2 * width * first
    count = 0
    x = np.empty(3)
    y = np.empty(3)
    for line in range(first, last):
        view = line // height
        row = line % height
        for column in range(width):
            for vertical in range(2):
                row1 = row + vertical
                column1 = column + 1 - vertical
                if row1 >= height or column1 >= width:
                    continue
                id0 = np.int64(rast[view, row, column, 3])
                id1 = np.int64(rast[view, row1, column1, 3])
                if id0 == id1:
                    continue
                if id1 == 0 or (id0 != 0 and rast[view, row, column, 2] < rast[view, row1, column1, 2]):
                    ds, face, other, cx, cy = 1.0, id0 - 1, id1 - 1, np.float64(column), np.float64(row)
                else:
                    ds, face, other, cx, cy = -1.0, id1 - 1, id0 - 1, np.float64(column1), np.float64(row1)
                for _ in range(max_steps):
                    for i in range(3):
                        v = tri[face, i]
                        px = points[view, v, 0] - cx
                        py = points[view, v, 1] - cy
                        x[i] = py if vertical else px
                        y[i] = px if vertical else py
                    edge = -1
                    distance = -np.inf
                    for i in range(3):
                        j = (i + 1) % 3
                        k = (i + 2) % 3
                        if (y[j] >= 0) != (y[k] >= 0):
                            dy = y[k] - y[j]
                            d = ds * (x[j] * dy - y[j] * (x[k] - x[j])) / dy
                            if d > distance:
                                distance = d
                                edge = i
                    if not (distance > -slack and distance < 1 + slack):
                        break
                    j = (edge + 1) % 3
                    k = (edge + 2) % 3
                    o = opposite[face, edge]
                    px = points[view, o, 0] - cx
                    py = points[view, o, 1] - cy
                    xo = py if vertical else px
                    yo = px if vertical else py
                    inner = (x[j] - x[edge]) * (y[k] - y[edge]) - (x[k] - x[edge]) * (y[j] - y[edge])
                    wing = (x[j] - xo) * (y[k] - yo) - (x[k] - xo) * (y[j] - yo)
                    if np.isnan(wing) or ((inner >= 0) == (wing >= 0)):
                        if abs(y[k] - y[j]) >= abs(x[k] - x[j]):
                            at = begin + count
                            out_pixel[at] = 2 * (line * width + column) + vertical
                            out_forward[at] = ds
                            out_edge[at, 0] = view * points.shape[1] + tri[face, j]
                            out_edge[at, 1] = view * points.shape[1] + tri[face, k]
                            count += 1
                        break
                    face = neighbour[face, edge]
                    if distance >= 1 or face == other:
                        break
    return count


def run_chunks(work: Callable[[int, int], T], rows: int) -> list[T]:
    """`work(first, last)` on as many equal ranges of 0..rows as torch has threads, at once; the results in order."""
    chunks = max(min(torch.get_num_threads(), rows), 1)
    cuts = [rows * i // chunks for i in range(chunks + 1)]
    others = [_POOL.submit(work, cuts[i], cuts[i + 1]) for i in range(1, chunks)]
    return [work(cuts[0], cuts[1]), *(other.result() for other in others)]


def visible(screen: Screen, tri: Tensor) -> Tensor:
    """Visible triangle + 1 at every pixel centre, 0 where empty: (B, H, W) int32. `tri` (F, 3) int32 on the CPU,
    indices already checked."""
    views, height, width = screen.xy.shape[0], screen.height, screen.width
    ids = np.empty((views, height, width), np.int32)
    depth = np.empty(ids.shape, np.float64)
    xy, z, faces = screen.xy.contiguous().numpy(), screen.z.contiguous().numpy(), tri.contiguous().numpy()
    run_chunks(
        lambda first, last: _fill_rows(xy, z, faces, height, width, SUBPIXEL_BITS, SKIPPED, first, last, depth, ids),
        views * height,
    )
    return torch.from_numpy(ids)


def crossings(rast: Tensor, points: Tensor, tri: Tensor, topology: Topology) -> Crossings:
    """The same as `twin.crossings`, for CPU tensors, with the numba kernel."""
    views, height, width, _ = rast.shape
    room = 2 * views * height * width
    pair, forward, edge = np.empty(room, np.int64), np.empty(room, np.float64), np.empty((room, 2), np.int64)
    given = (rast.detach(), points, tri, topology.neighbour, topology.opposite)
    r, p, t, n, o = (v.contiguous().numpy() for v in given)

    def search(first: int, last: int) -> tuple[int, int]:
        begin = 2 * width * first
        return begin, begin + _search_rows(r, p, t, n, o, MAX_STEPS, SLACK, first, last, pair, forward, edge)

    spans = run_chunks(search, views * height)
    pairs, forwards, edges = (
        torch.from_numpy(np.concatenate([v[begin:end] for begin, end in spans])) for v in (pair, forward, edge)
    )
    return Crossings(pairs // 2, pairs % 2, forwards, edges[:, 0], edges[:, 1])


def compile_kernels() -> None:
    """Compile this module's kernels on a tiny input and leave them in numba's cache: called during set-up."""
    pos = torch.tensor([[[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]])
    tri = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    ids = visible(snap(pos, 2, 2), tri)
    rast = torch.zeros(1, 2, 2, 4)
    rast[..., 3] = ids
    crossings(rast, project(pos, 2, 2), tri, antialias_construct_topology_hash(tri))
