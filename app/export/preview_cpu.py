"""The fused CPU path of `app.export.preview.render_asset`: visible triangles to averaged, composited, encoded pixels.

Plain torch spends its time on large intermediate pictures; here each picture row is finished before the next begins.
Rows are shaded independently, so the result does not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from renderers.raster.cpu import run_chunks


@njit(cache=True, nogil=True)
def _encode(x):
    return 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055


@njit(cache=True, nogil=True)
def _shade_rows(
    ids, clip, faces, uv, normals, rotation, texture, table, lamps, sky, ground, kind, back, samples, first, last, out
):
    """Rows first..last-1 of the B·R rows of `out` (B, 3, R, R); see `shade` for the rest."""
    size = ids.shape[1]
    resolution = size // samples
    high, wide = texture.shape[:2]
    share = 1.0 / (samples * samples)
    color = np.empty(3)
    total = np.empty(3)
    b = np.empty(3)
    n = np.empty(3)
    m = np.empty(3)
    for line in range(first, last):
        view = line // resolution
        row = line % resolution
        for column in range(resolution):
            total[:] = 0.0
            covered = 0
            for sub in range(samples * samples):
                y = size - 1 - (row * samples + sub // samples)
                x = column * samples + sub % samples
                face = ids[view, y, x] - 1
                if face < 0:
                    continue
                covered += 1
                fx = (2.0 * x + 1.0) / size - 1.0
                fy = (2.0 * y + 1.0) / size - 1.0
                for i in range(3):
                    p = clip[view, faces[face, (i + 1) % 3]]
                    q = clip[view, faces[face, (i + 2) % 3]]
                    b[i] = (np.float64(p[0]) - fx * p[3]) * (np.float64(q[1]) - fy * q[3]) - (
                        np.float64(p[1]) - fy * p[3]
                    ) * (np.float64(q[0]) - fx * q[3])
                area = b[0] + b[1] + b[2]
                if abs(area) < 1e-30:
                    area = 1e-30
                b0 = min(max(b[0] / area, 0.0), 1.0)
                b1 = min(max(b[1] / area, 0.0), 1.0)
                over = max(b0 + b1, 1.0)
                b[0] = b0 / over
                b[1] = b1 / over
                b[2] = 1.0 - b[0] - b[1]
                if kind > 0:  # camera-space normal
                    length = 0.0
                    for c in range(3):
                        n[c] = 0.0
                        for i in range(3):
                            n[c] += b[i] * normals[faces[face, i], c]
                        length += n[c] * n[c]
                    length = max(np.sqrt(length), 1e-12)
                    for c in range(3):
                        m[c] = 0.0
                        for i in range(3):
                            m[c] += n[i] * rotation[view, i, c]
                        m[c] /= length
                if kind == 1:
                    for c in range(3):
                        total[c] += 0.5 + 0.5 * m[c]
                    continue
                u = 0.0
                v = 0.0
                for i in range(3):
                    u += b[i] * uv[faces[face, i], 0]
                    v += b[i] * uv[faces[face, i], 1]
                u = min(max(u * wide - 0.5, 0.0), wide - 1.0)
                v = min(max(v * high - 0.5, 0.0), high - 1.0)
                i0 = int(v)
                j0 = int(u)
                i1 = min(i0 + 1, high - 1)
                j1 = min(j0 + 1, wide - 1)
                v -= i0
                u -= j0
                for c in range(3):
                    above = table[texture[i0, j0, c]] * (1.0 - u) + table[texture[i0, j1, c]] * u
                    below = table[texture[i1, j0, c]] * (1.0 - u) + table[texture[i1, j1, c]] * u
                    color[c] = above * (1.0 - v) + below * v
                shine = 1.0
                if kind == 2:
                    shine = ground + (sky - ground) * (0.5 + 0.5 * m[1])
                    for k in range(lamps.shape[0]):
                        cosine = m[0] * lamps[k, 0] + m[1] * lamps[k, 1] + m[2] * lamps[k, 2]
                        shine += lamps[k, 4] * max((cosine + lamps[k, 3]) / (1.0 + lamps[k, 3]), 0.0)
                for c in range(3):
                    total[c] += min(color[c] * shine, 1.0)
            empty = 1.0 - covered * share
            for c in range(3):
                value = total[c] * share + empty * back
                out[view, c, row, column] = _encode(value) if kind == 2 else value


def shade(
    ids: Tensor,
    clip: Tensor,
    faces: Tensor,
    uv: Tensor,
    normals: Tensor,
    rotation: Tensor,
    texture: Tensor,
    table: Tensor,
    lamps: NDArray,
    hemisphere: tuple[float, float],
    kind: int,
    background: float,
    samples: int,
) -> Tensor:
    """Pictures (B, 3, R, R) from visible triangles `ids` (B, R·samples, R·samples), triangle + 1, row 0 at the bottom.

    clip (B, V, 4), faces (F, 3) int32, uv (V, 2), normals (V, 3), rotation (B, 3, 3) camera-to-world, texture
    (H, W, 3) uint8 with the value of each level in `table` (256,). `lamps` (L, 5): unit direction, wrap, strength;
    `hemisphere` the strength from above and from below. `kind` 0 is the texture, 1 normals, 2 lit and encoded to sRGB.
    `background` is in the same units as the values before encoding.
    """
    views, size, _ = ids.shape
    resolution = size // samples
    out = np.empty((views, 3, resolution, resolution), np.float32)
    tensors = (ids, clip, faces, uv, normals, rotation, texture, table)
    i, p, f, t, n, r, w, k = (x.detach().contiguous().numpy() for x in tensors)
    sky, ground = hemisphere

    def rows(first: int, last: int) -> None:
        _shade_rows(i, p, f, t, n, r, w, k, lamps, sky, ground, kind, background, samples, first, last, out)

    run_chunks(rows, views * resolution)
    return torch.from_numpy(out)


def compile_kernels() -> None:
    """Compile this module's kernel on a tiny input and leave it in numba's cache: called during set-up."""
    corners = torch.tensor([[[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]])
    up = torch.tensor([[0.0, 0, 1]] * 3)
    tri = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    texture, table = torch.zeros(1, 1, 3, dtype=torch.uint8), torch.zeros(256)
    ids = torch.ones(1, 2, 2, dtype=torch.int32)
    mesh = (corners, tri, torch.zeros(3, 2), up, torch.eye(3)[None])
    shade(ids, *mesh, texture, table, np.zeros((1, 5)), (0.0, 0.0), 2, 0.0, 2)
