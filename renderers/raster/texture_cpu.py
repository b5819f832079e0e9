"""Texture lookup on the CPU, in numba, forward and backward; renderers/raster/texture_twin.py is the same in torch.

The B·H·W pixels are cut into as many ranges as torch has threads. Gradients of texels are summed in a table a range,
and those in order, so that the same number of threads gives the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from renderers.raster.cpu import run_chunks
from renderers.raster.texels import BOUNDARIES, Pyramid


@njit(cache=True, nogil=True, inline="always")
def _place(u, n, nearest, boundary):
    """(first texel, share of the second) along a side of n texels."""
    if boundary == 0:
        u = u - np.floor(u)
        if not u >= 0.0:
            u = 0.0
    x = u * n
    if not nearest:
        x -= 0.5
    if boundary != 0:  # also where u is not a number
        if not x > -2.0:
            x = -2.0
        if x > n + 1.0:
            x = n + 1.0
    first = np.floor(x)
    return np.int64(first), x - first


@njit(cache=True, nogil=True, inline="always")
def _index(i, n, boundary):
    """Texel i of n, or -1 where there is none."""
    if 0 <= i < n:
        return i
    if boundary == 0:
        return i % n
    if boundary == 1:
        return min(max(i, 0), n - 1)
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _corners(u, v, h, w, nearest, boundary, rows, weights, du, dv):
    """Fill the four texels' rows (-1: none), weights, and the weights' derivatives in u and v."""
    j, fx = _place(u, w, nearest, boundary)
    i, fy = _place(v, h, nearest, boundary)
    for k in range(4):
        a = _index(i + (k >> 1), h, boundary)
        b = _index(j + (k & 1), w, boundary)
        rows[k] = a * w + b if a >= 0 and b >= 0 else -1
        wy = fy if k >> 1 else 1.0 - fy
        wx = fx if k & 1 else 1.0 - fx
        weights[k] = wx * wy
        du[k] = (w if k & 1 else -w) * wy
        dv[k] = (h if k >> 1 else -h) * wx
    if nearest:
        weights[0] = 1.0
        for k in range(1, 4):
            weights[k] = 0.0
            rows[k] = -1


@njit(cache=True, nogil=True)
def _forward(texels, sizes, starts, uv, level, pixels, nearest, boundary, first, last, out):
    channels = texels.shape[2]
    rows = np.empty(4, np.int64)
    weights, du, dv = np.empty(4), np.empty(4), np.empty(4)
    for p in range(first, last):
        view = p // pixels if texels.shape[0] > 1 else 0
        low, part = 0, 0.0
        if level.shape[0]:
            low = np.int64(np.floor(level[p]))
            part = level[p] - low
        for c in range(channels):
            out[p, c] = 0.0
        for step in range(2):
            share = part if step else 1.0 - part
            if share == 0.0:
                continue
            k = low + step
            _corners(uv[p, 0], uv[p, 1], sizes[k, 0], sizes[k, 1], nearest, boundary, rows, weights, du, dv)
            for q in range(4):
                if rows[q] >= 0:
                    factor = share * weights[q]
                    row = starts[k] + rows[q]
                    for c in range(channels):
                        out[p, c] += factor * texels[view, row, c]


@njit(cache=True, nogil=True)
def _backward(
    texels, sizes, starts, uv, level, pixels, nearest, boundary, g, first, last, g_texels, g_uv, g_level, of_texels
):
    channels = texels.shape[2]
    rows = np.empty(4, np.int64)
    weights, du, dv = np.empty(4), np.empty(4), np.empty(4)
    for p in range(first, last):
        view = p // pixels if texels.shape[0] > 1 else 0
        low, part = 0, 0.0
        steps = 1
        if level.shape[0]:
            low = np.int64(np.floor(level[p]))
            part = level[p] - low
            steps = 2 if low + 1 < sizes.shape[0] else 1
        su = 0.0
        sv = 0.0
        mixed = 0.0
        for step in range(steps):
            share = part if step else 1.0 - part
            k = low + step
            _corners(uv[p, 0], uv[p, 1], sizes[k, 0], sizes[k, 1], nearest, boundary, rows, weights, du, dv)
            for q in range(4):
                if rows[q] < 0:
                    continue
                row = starts[k] + rows[q]
                factor = share * weights[q]
                dot = 0.0
                for c in range(channels):
                    dot += g[p, c] * texels[view, row, c]
                    if of_texels:
                        g_texels[view, row, c] += factor * g[p, c]
                su += share * dot * du[q]
                sv += share * dot * dv[q]
                mixed += (1.0 if step else -1.0) * dot * weights[q]
        if nearest:
            su, sv = 0.0, 0.0
        g_uv[p, 0] = su
        g_uv[p, 1] = sv
        if level.shape[0]:
            g_level[p] = mixed if steps == 2 else 0.0


def _arrays(levels: Pyramid, texels: Tensor, uv: Tensor, level: Tensor | None) -> tuple[Any, Any, Any, Any, Any, int]:
    """The kernels' first arguments."""
    heights = np.array(levels.sizes, np.int64)
    starts = np.array(levels.offsets(), np.int64)
    at = uv.detach().reshape(-1, 2).contiguous().numpy()
    mixed = np.empty(0, at.dtype) if level is None else level.detach().reshape(-1).contiguous().numpy()
    return texels.detach().contiguous().numpy(), heights, starts, at, mixed, uv.shape[1] * uv.shape[2]


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, texels: Tensor, uv: Tensor, level: Tensor | None, levels: Pyramid, nearest: bool, code: int):
        given = _arrays(levels, texels, uv, level)
        rows = uv.shape[0] * uv.shape[1] * uv.shape[2]
        out = torch.empty(rows, texels.shape[2], dtype=texels.dtype)
        o = out.numpy()
        run_chunks(lambda a, b: _forward(*given, nearest, code, a, b, o), rows)
        ctx.save_for_backward(texels, uv, level)
        ctx.rest = levels, nearest, code
        return out.reshape(*uv.shape[:3], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        texels, uv, level = ctx.saved_tensors
        levels, nearest, code = ctx.rest
        given = _arrays(levels, texels, uv, level)
        rows, wanted = len(given[3]), ctx.needs_input_grad[0]
        g = gradients[0].reshape(rows, -1).contiguous().numpy()
        g_uv = np.empty((rows, 2), g.dtype)
        g_level = np.empty(len(given[4]), g.dtype)

        def work(a: int, b: int) -> np.ndarray:
            table = np.zeros(texels.shape if wanted else (0, 0, 0), g.dtype)
            _backward(*given, nearest, code, g, a, b, table, g_uv, g_level, wanted)
            return table

        tables = run_chunks(work, rows)
        for other in tables[1:]:
            tables[0] += other
        return (
            torch.from_numpy(tables[0]) if wanted else None,
            torch.from_numpy(g_uv).reshape(uv.shape),
            None if level is None else torch.from_numpy(g_level).reshape(level.shape),
            None,
            None,
            None,
        )


def look_up(levels: Pyramid, uv: Tensor, level: Tensor | None, nearest: bool, boundary: str) -> Tensor:
    """The same as `texture_twin.look_up`, for CPU tensors, with the numba kernels."""
    # Pyramid holds a graph: the function gets its texels apart
    bare = Pyramid(levels.texels.detach(), levels.sizes)
    return _LookUp.apply(levels.texels, uv, level, bare, nearest, BOUNDARIES.index(boundary))  # pyright: ignore[reportReturnType]


def compile_kernels() -> None:
    """Compile on a tiny input and leave the kernels in numba's cache: called during set-up."""
    texels = torch.zeros(1, 1, 1, requires_grad=True)
    uv = torch.zeros(1, 1, 1, 2, requires_grad=True)
    look_up(Pyramid(texels, ((1, 1),)), uv, None, False, "wrap").sum().backward()
