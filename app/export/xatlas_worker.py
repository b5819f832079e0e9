"""The process that runs xatlas: npz of a mesh on stdin, npz of its atlas on stdout; `app.export.unwrap` starts it.

It imports numpy, scipy and xatlas, and no torch, so that it starts in a fraction of a second.

Charts are cut on a lightly smoothed copy of the surface: marching cubes and vertex refinement leave ripples below the
size of a voxel that would otherwise shatter the atlas. Only the cutting sees the smoothed copy.

xatlas packs to a density, not to a size, so the density is solved for: the side of the packed square grows almost
linearly with the charts' scale, and a secant finds the scale whose square just fits. The padding is then exact and
nothing is rescaled.
"""

from __future__ import annotations

import io
import sys

import numpy as np
import xatlas
from numpy.typing import NDArray
from scipy import sparse

from app.export.overlap import overlapping

PASSES = 6
FULL = 0.94  # an atlas whose packed side is at least this part of the picture is taken


def smoothed(vertices: NDArray, faces: NDArray, steps: int) -> NDArray:
    """(V, 3) positions after `steps` half-steps towards the mean of the neighbours (umbrella Laplacian)."""
    a, b, c = faces.astype(np.int64).T
    edges = sparse.coo_matrix((np.ones(3 * len(faces)), (np.r_[a, b, c], np.r_[b, c, a])), shape=(len(vertices),) * 2)
    adjacent = ((edges + edges.T) > 0).astype(np.float64).tocsr()
    degree = np.asarray(adjacent.sum(1)).reshape(-1, 1)
    out = vertices.astype(np.float64)
    for _ in range(steps):
        out = np.where(degree > 0, 0.5 * out + 0.5 * (adjacent @ out) / np.maximum(degree, 1), out)
    return out.astype(np.float32)


def area(vertices: NDArray, faces: NDArray) -> float:
    p = vertices[faces].astype(np.float64)
    return float(np.linalg.norm(np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), axis=1).sum() / 2)


def cut(vertices: NDArray, faces: NDArray, texels_per_unit: float) -> tuple[NDArray, NDArray, NDArray]:
    """Charts: vmapping (V',), faces (F, 3) into the split vertices, and their flat positions (V', 2) in texels."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices, faces)
    options = xatlas.ChartOptions()
    options.max_cost = 8.0  # where a chart stops growing
    options.normal_deviation_weight = 1.0
    options.normal_seam_weight = 0.0
    packing = xatlas.PackOptions()
    packing.texels_per_unit = texels_per_unit
    packing.padding = 1  # apart, so that overlaps are within charts
    atlas.generate(options, packing)
    vmapping, split, uv = atlas[0]
    return vmapping, split, uv * np.array([atlas.width, atlas.height], np.float32)


def folded(flat: NDArray, faces: NDArray) -> NDArray:
    """Faces to take out so that no two faces overlap: indices, ascending.

    xatlas rejects charts with flipped faces or crossing borders, but lets through a fan whose angles add up to more
    than a full turn. RuntimeError where there are too many faces in one place to look at.
    """
    pairs = overlapping(flat[faces])
    if pairs is None:
        raise RuntimeError("too many of its faces lie in one place")
    taken = []
    while len(pairs):
        worst = int(np.argmax(np.bincount(pairs.reshape(-1))))
        taken.append(worst)
        pairs = pairs[(pairs != worst).all(1)]
    return np.sort(np.array(taken, np.int64))


def detached(vmapping: NDArray, faces: NDArray, flat: NDArray, chosen: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """The same atlas with each chosen face as a chart of its own, laid out beside the others."""
    if len(chosen) == 0:
        return vmapping, faces, flat
    corners = flat[faces[chosen]]
    corners = corners - corners.min(1, keepdims=True)
    width = corners[..., 0].max(1) + 1
    corners[..., 0] += (flat[:, 0].max() + 1 + np.cumsum(width) - width)[:, None]
    faces, old = faces.copy(), faces[chosen].reshape(-1)
    faces[chosen] = (len(flat) + np.arange(3 * len(chosen))).reshape(-1, 3)
    vmapping, flat = np.r_[vmapping, vmapping[old]], np.r_[flat, corners.reshape(-1, 2)]
    used = np.unique(faces)  # a vertex that only chosen faces had is left behind
    return vmapping[used], np.searchsorted(used, faces), flat[used]


def pack(flat: NDArray, faces: NDArray, scale: float, padding: int) -> xatlas.Atlas:
    """Charts of given shape, scaled and packed into one atlas of whatever size they need."""
    atlas = xatlas.Atlas()
    atlas.add_uv_mesh(flat.astype(np.float32), faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.texels_per_unit = scale
    packing.padding = padding
    packing.bilinear = True
    packing.bruteForce = False
    atlas.generate(pack_options=packing)
    return atlas


def fit(flat: NDArray, faces: NDArray, size: int, padding: int) -> xatlas.Atlas:
    """The densest atlas found that lies within size x size texels. RuntimeError if none of `PASSES` does."""
    scale, best, last = 1.0, None, None
    for _ in range(PASSES):
        atlas = pack(flat, faces, scale, padding)
        side = max(atlas.width, atlas.height)
        if side <= size and (best is None or side > max(best.width, best.height)):
            best = atlas
        if FULL * size <= side <= size:
            break
        slope = side / scale
        if last is not None and last[0] != scale:
            slope = min(max((side - last[1]) / (scale - last[0]), 0.3 * slope), slope)
        last = (scale, side)
        scale = max(scale + (0.975 * size - side) / slope, 0.1 * scale)
    if best is None:
        raise RuntimeError(f"the charts do not fit into {size} x {size} texels")
    return best


def main() -> None:
    request = np.load(io.BytesIO(sys.stdin.buffer.read()))
    vertices, faces, size = request["vertices"], request["faces"], int(request["size"])
    shape = smoothed(vertices, faces, int(request["smoothing"]))
    vmapping, split, flat = cut(shape, faces, 0.65 * size / area(shape, faces) ** 0.5)
    vmapping, split, flat = detached(vmapping, split, flat, folded(flat, split))
    atlas = fit(flat, split, size, int(request["padding"]))
    order, packed, uv = atlas[0]
    uv = uv * np.array([atlas.width, atlas.height], np.float32) / size
    reply = io.BytesIO()
    np.savez(reply, vmapping=vmapping[order], faces=packed, uv=uv, charts=atlas.chart_count)
    sys.stdout.buffer.write(reply.getvalue())


def run() -> None:
    """`main`; what it cannot do is said in the last line of stderr."""
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"{error}")
