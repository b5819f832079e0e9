"""Forward-only pictures of coloured meshes, fast enough to feed a trainer (about 1000 views a second on two cores).

One fused kernel: z-buffer at `supersample` times the resolution, perspective-correct vertex colours and normals, box
filter. The differentiable verbs are in renderers/raster; this draws the same pictures (tests compare them) without
their intermediate buffers.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray

from renderers.cameras import Cameras

_POOL = ThreadPoolExecutor(max_workers=2)


@njit(cache=True, nogil=True)
def _draw(vertices, normals, colors, faces, view, focal, size, sub, out):  # pragma: no cover - compiled
    """One view into out (7, size, size): r g b on mid-grey, alpha, camera normals n/2 + 1/2; row 0 at the top."""
    n = vertices.shape[0]
    big = size * sub
    cam = np.empty((n, 3), np.float32)
    for i in range(n):
        for k in range(3):
            cam[i, k] = (
                view[k, 0] * vertices[i, 0] + view[k, 1] * vertices[i, 1] + view[k, 2] * vertices[i, 2] + view[k, 3]
            )
    xy = np.empty((n, 2), np.float32)
    for i in range(n):
        w = -cam[i, 2]
        xy[i, 0] = (focal * cam[i, 0] / w * 0.5 + 0.5) * big
        xy[i, 1] = (0.5 - focal * cam[i, 1] / w * 0.5) * big
    depth = np.full((big, big), np.float32(1e30))
    owner = np.full((big, big), -1, np.int32)
    bary = np.empty((big, big, 2), np.float32)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        wa, wb, wc = -cam[a, 2], -cam[b, 2], -cam[c, 2]
        if wa <= 0.05 or wb <= 0.05 or wc <= 0.05:
            continue
        ax, ay, bx, by, cx, cy = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        x0 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        x1 = min(big - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        y0 = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        y1 = min(big - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        inv = 1 / area
        for y in range(y0, y1 + 1):
            py = y + 0.5
            for x in range(x0, x1 + 1):
                px = x + 0.5
                u = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inv
                v = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inv
                w = 1 - u - v
                if u < 0 or v < 0 or w < 0:
                    continue
                pu, pv, pw = u / wa, v / wb, w / wc
                d = 1 / (pu + pv + pw)
                if d < depth[y, x]:
                    depth[y, x] = d
                    owner[y, x] = f
                    bary[y, x, 0] = pu * d
                    bary[y, x, 1] = pv * d
    weight = np.float32(1.0 / (sub * sub))
    for y in range(size):
        for x in range(size):
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = np.float32(0)
            for j in range(sub):
                for i in range(sub):
                    yy, xx = y * sub + j, x * sub + i
                    f = owner[yy, xx]
                    if f < 0:
                        s0 += 0.5
                        s1 += 0.5
                        s2 += 0.5
                        continue
                    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                    u, v = bary[yy, xx, 0], bary[yy, xx, 1]
                    w = 1 - u - v
                    s0 += u * colors[a, 0] + v * colors[b, 0] + w * colors[c, 0]
                    s1 += u * colors[a, 1] + v * colors[b, 1] + w * colors[c, 1]
                    s2 += u * colors[a, 2] + v * colors[b, 2] + w * colors[c, 2]
                    s3 += 1
                    n0 = u * normals[a, 0] + v * normals[b, 0] + w * normals[c, 0]
                    n1 = u * normals[a, 1] + v * normals[b, 1] + w * normals[c, 1]
                    n2 = u * normals[a, 2] + v * normals[b, 2] + w * normals[c, 2]
                    m0 = view[0, 0] * n0 + view[0, 1] * n1 + view[0, 2] * n2
                    m1 = view[1, 0] * n0 + view[1, 1] * n1 + view[1, 2] * n2
                    m2 = view[2, 0] * n0 + view[2, 1] * n1 + view[2, 2] * n2
                    area = (xy[b, 0] - xy[a, 0]) * (xy[c, 1] - xy[a, 1]) - (xy[b, 1] - xy[a, 1]) * (
                        xy[c, 0] - xy[a, 0]
                    )
                    scale = 1 / np.sqrt(m0 * m0 + m1 * m1 + m2 * m2 + 1e-12)
                    if area > 0:  # y grows downwards here: positive is seen from behind, and sheets are two-sided
                        scale = -scale
                    s4 += m0 * scale
                    s5 += m1 * scale
                    s6 += m2 * scale
            out[0, y, x] = s0 * weight
            out[1, y, x] = s1 * weight
            out[2, y, x] = s2 * weight
            out[3, y, x] = s3 * weight
            out[4, y, x] = 0.5 + 0.5 * s4 * weight
            out[5, y, x] = 0.5 + 0.5 * s5 * weight
            out[6, y, x] = 0.5 + 0.5 * s6 * weight


def snapshots(
    meshes: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]],
    cameras: Cameras,
    size: int,
    supersample: int = 2,
) -> NDArray[np.float32]:
    """Frames (B, 7, size, size) in [0, 1], as in docs/conventions.md.

    `meshes[i]` = (vertices (V, 3), unit normals (V, 3), sRGB colours (V, 3) in [0, 1], faces (F, 3)) is seen by
    camera i. Two-sided.
    """
    out = np.empty((len(meshes), 7, size, size), np.float32)
    views = cameras.world_to_camera().numpy()
    focal = (1 / np.tan(cameras.fov.numpy() / 2)).astype(np.float32)

    def one(i: int) -> None:
        v, n, c, f = meshes[i]
        _draw(v, n, c, f, views[i], focal[i], size, supersample, out[i])

    list(_POOL.map(one, range(len(meshes))))
    return out


def compile_kernels() -> None:
    """Compile (or load from numba's cache) with one triangle."""
    from renderers.cameras import orbit

    v = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0]], np.float32)
    snapshots([(v, v, np.abs(v), np.array([[0, 1, 2]], np.int32))], orbit(1), 8)
