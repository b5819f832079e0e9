"""What a visible pixel of a mesh shows, on the CPU, in numba, forward and backward; renderers/mesh_twin.py is the same
in torch.

One kernel takes each covered pixel from its triangle's clip positions to barycentrics and interpolated attributes
(renderers/raster/rasterize.py has the formulas), one from there to its colour, normal and depth in the picture.
Gradients of vertices are summed view by view, each by one thread, then over the views, so that the number of threads
changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from renderers.cameras import Cameras
from renderers.mesh_twin import TINY
from renderers.raster.cpu import run_chunks


@njit(cache=True, nogil=True)
def _corners(pos, tri, view, face, fx, fy, x, y, b):
    """Fill the vertices' x, y relative to the pixel's centre and the barycentrics b; returns a_0 + a_1 + a_2."""
    for i in range(3):
        v = tri[face, i]
        w = np.float64(pos[view, v, 3])
        x[i] = pos[view, v, 0] - fx * w
        y[i] = pos[view, v, 1] - fy * w
    total = 0.0
    for i in range(3):
        j = (i + 1) % 3
        k = (i + 2) % 3
        b[i] = x[j] * y[k] - x[k] * y[j]
        total += b[i]
    if not abs(total) > 1e-30:
        total = 1e-30
    for i in range(3):
        b[i] /= total
    return total


@njit(cache=True, nogil=True)
def _surface(pos, attributes, tri, ids, index, width, height, first, last, rast, out):
    x, y, b = np.empty(3), np.empty(3), np.empty(3)
    channels = attributes.shape[1]
    for n in range(first, last):
        p = index[n]
        face = ids[p] - 1
        view = p // (width * height)
        fx = (p % width + 0.5) * 2.0 / width - 1.0
        fy = (p // width % height + 0.5) * 2.0 / height - 1.0
        _corners(pos, tri, view, face, fx, fy, x, y, b)
        z, w = 0.0, 0.0
        for i in range(3):
            z += b[i] * pos[view, tri[face, i], 2]
            w += b[i] * pos[view, tri[face, i], 3]
        u = min(max(b[0], 0.0), 1.0)
        v = min(max(b[1], 0.0), 1.0)
        over = max(u + v, 1.0)
        u /= over
        v /= over
        rast[p, 0] = u
        rast[p, 1] = v
        rast[p, 2] = min(max(z / w, -1.0), 1.0)
        rast[p, 3] = face + 1
        t = 1.0 - u - v
        v0, v1, v2 = tri[face, 0], tri[face, 1], tri[face, 2]
        for c in range(channels):
            out[n, c] = u * attributes[v0, c] + v * attributes[v1, c] + t * attributes[v2, c]


@njit(cache=True, nogil=True)
def _surface_backward(pos, attributes, tri, ids, index, width, height, g, spans, first, last, g_pos, g_attributes):
    x, y, b, gb = np.empty(3), np.empty(3), np.empty(3), np.zeros(3)
    gx, gy = np.empty(3), np.empty(3)
    channels = attributes.shape[1]
    for view in range(first, last):
        for n in range(spans[view], spans[view + 1]):
            p = index[n]
            face = ids[p] - 1
            fx = (p % width + 0.5) * 2.0 / width - 1.0
            fy = (p // width % height + 0.5) * 2.0 / height - 1.0
            total = _corners(pos, tri, view, face, fx, fy, x, y, b)
            u = min(max(b[0], 0.0), 1.0)
            v = min(max(b[1], 0.0), 1.0)
            s = u + v
            over = max(s, 1.0)
            u /= over
            v /= over
            t = 1.0 - u - v
            v0, v1, v2 = tri[face, 0], tri[face, 1], tri[face, 2]
            gu, gv = 0.0, 0.0
            for c in range(channels):
                q = g[n, c]
                last_one = attributes[v2, c]
                gu += q * (attributes[v0, c] - last_one)
                gv += q * (attributes[v1, c] - last_one)
                g_attributes[view, v0, c] += q * u
                g_attributes[view, v1, c] += q * v
                g_attributes[view, v2, c] += q * t
            if s > 1.0:
                both = gu * u + gv * v
                gu = (gu - both) / over
                gv = (gv - both) / over
            gb[0] = gu if 0.0 <= b[0] <= 1.0 else 0.0
            gb[1] = gv if 0.0 <= b[1] <= 1.0 else 0.0
            mean = gb[0] * b[0] + gb[1] * b[1]
            for i in range(3):
                gx[i] = 0.0
                gy[i] = 0.0
            for i in range(3):
                j = (i + 1) % 3
                k = (i + 2) % 3
                ga = (gb[i] - mean) / total
                gx[j] += ga * y[k]
                gy[k] += ga * x[j]
                gx[k] -= ga * y[j]
                gy[j] -= ga * x[k]
            for i in range(3):
                corner = tri[face, i]
                g_pos[view, corner, 0] += gx[i]
                g_pos[view, corner, 1] += gy[i]
                g_pos[view, corner, 3] -= fx * gx[i] + fy * gy[i]


@njit(cache=True, nogil=True)
def _shade(covered, base, index, rotation, position, pixels, two_sided, tiny, first, last, out):
    for n in range(first, last):
        p = index[n]
        view = p // pixels
        x = position[view, 0] - covered[n, 0]
        y = position[view, 1] - covered[n, 1]
        z = position[view, 2] - covered[n, 2]
        a, b, c = covered[n, 3], covered[n, 4], covered[n, 5]
        square = a * a + b * b + c * c
        scale = 1.0 / np.sqrt(square) if square > tiny else 0.0
        if two_sided and a * x + b * y + c * z < 0:
            scale = -scale
        for k in range(3):
            out[p, k] = base[n, k]
            out[p, 4 + k] = scale * (rotation[view, 0, k] * a + rotation[view, 1, k] * b + rotation[view, 2, k] * c)
        out[p, 3] = 1.0
        out[p, 7] = np.sqrt(x * x + y * y + z * z)


@njit(cache=True, nogil=True)
def _shade_backward(covered, index, rotation, position, pixels, two_sided, tiny, g, first, last, g_covered, g_base):
    for n in range(first, last):
        p = index[n]
        view = p // pixels
        x = position[view, 0] - covered[n, 0]
        y = position[view, 1] - covered[n, 1]
        z = position[view, 2] - covered[n, 2]
        away = g[p, 7] / np.sqrt(x * x + y * y + z * z)
        g_covered[n, 0] = -away * x
        g_covered[n, 1] = -away * y
        g_covered[n, 2] = -away * z
        a, b, c = covered[n, 3], covered[n, 4], covered[n, 5]
        square = a * a + b * b + c * c
        scale = 1.0 / np.sqrt(square) if square > tiny else 0.0
        along = 0.0
        for i in range(3):
            g_base[n, i] = g[p, i]
            q = rotation[view, i, 0] * g[p, 4] + rotation[view, i, 1] * g[p, 5] + rotation[view, i, 2] * g[p, 6]
            g_covered[n, 3 + i] = q
            along += q * covered[n, 3 + i]
        along *= scale * scale
        if two_sided and a * x + b * y + c * z < 0:
            scale = -scale
        for i in range(3):
            g_covered[n, 3 + i] = scale * (g_covered[n, 3 + i] - along * covered[n, 3 + i])
        for i in range(6, covered.shape[1]):
            g_covered[n, i] = 0.0


def _array(x: Tensor) -> Any:
    return x.detach().contiguous().numpy()


def _given(
    pos: Tensor, attributes: Tensor, tri: Tensor, ids: Tensor, index: Tensor
) -> tuple[Any, Any, Any, Any, Any, int, int]:
    """The surface kernels' first arguments."""
    flat = _array(ids).reshape(-1)
    return _array(pos), _array(attributes), _array(tri), flat, _array(index), ids.shape[2], ids.shape[1]


class _Surface(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pos: Tensor, attributes: Tensor, tri: Tensor, ids: Tensor, index: Tensor) -> Any:
        views, height, width = ids.shape
        rast = torch.zeros(views, height, width, 4)
        out = torch.empty(len(index), attributes.shape[1])
        given = _given(pos, attributes, tri, ids, index)
        r, o = rast.numpy().reshape(-1, 4), out.numpy()
        run_chunks(lambda a, b: _surface(*given, a, b, r, o), len(index))
        ctx.save_for_backward(pos, attributes, tri, ids, index)
        ctx.mark_non_differentiable(rast)
        return rast, out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        pos, attributes, tri, ids, index = ctx.saved_tensors
        views, height, width = ids.shape
        given = _given(pos, attributes, tri, ids, index)
        g, spans = _array(gradients[1]), np.searchsorted(given[4], np.arange(views + 1) * (height * width))
        g_pos = np.zeros(pos.shape, np.float32)
        g_attributes = np.zeros((views, *attributes.shape), np.float32)
        run_chunks(lambda a, b: _surface_backward(*given, g, spans, a, b, g_pos, g_attributes), views)
        return torch.from_numpy(g_pos), torch.from_numpy(g_attributes).sum(0), None, None, None


class _Shade(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, covered: Tensor, base: Tensor, index: Tensor, cameras: Cameras, size: int, both: bool
    ) -> Any:
        out = torch.zeros(len(cameras), size, size, 8)
        rotation, position = _array(cameras.rotation()), _array(cameras.position())
        c, b, n, o = _array(covered), _array(base), _array(index), out.numpy().reshape(-1, 8)
        pixels = size * size
        run_chunks(lambda i, j: _shade(c, b, n, rotation, position, pixels, both, TINY, i, j, o), len(n))
        ctx.save_for_backward(covered, index)
        ctx.rest = rotation, position, pixels, both
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        covered, index = ctx.saved_tensors
        rest: tuple[Any, Any, int, bool] = ctx.rest
        c, n, g = _array(covered), _array(index), _array(gradients[0]).reshape(-1, 8)
        g_covered, g_base = np.empty(c.shape, np.float32), np.empty((len(n), 3), np.float32)
        run_chunks(lambda i, j: _shade_backward(c, n, *rest, TINY, g, i, j, g_covered, g_base), len(n))
        return torch.from_numpy(g_covered), torch.from_numpy(g_base), None, None, None, None


def surface(pos: Tensor, attributes: Tensor, tri: Tensor, ids: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The same as `mesh_twin.surface`, for float32 on the CPU."""
    rast, covered = _Surface.apply(pos, attributes, tri, ids, index)  # pyright: ignore[reportGeneralTypeIssues]
    return rast, covered


def shade(covered: Tensor, base: Tensor, index: Tensor, cameras: Cameras, size: int, two_sided: bool) -> Tensor:
    """The same as `mesh_twin.shade`, for float32 on the CPU."""
    return _Shade.apply(covered, base, index, cameras, size, two_sided)  # pyright: ignore[reportReturnType]


def compile_kernels() -> None:
    """Compile on a tiny input and leave the kernels in numba's cache: called during set-up."""
    from renderers.cameras import orbit

    pos = torch.tensor([[[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]], requires_grad=True)
    ids, index = torch.ones(1, 1, 1, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
    tri = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    _, covered = surface(pos, torch.ones(3, 9, requires_grad=True), tri, ids, index)
    shade(covered, covered[:, 6:], index, orbit(1), 1, False).sum().backward()
