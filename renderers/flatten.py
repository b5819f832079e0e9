"""Bumps to planes and creases: bilateral filtering of face normals, then vertices moved to fit them (Sun et al. 2007,
"Fast and effective feature-preserving mesh denoising"; weights of Zheng et al. 2011).

    n_f <- unit(sum over faces g beside f of A_g exp(-|n_f - n_g|^2 / 2 s^2) n_g)
    v   <- v + mean over faces f at v of n_f (n_f . (c_f - v))

c_f is the face's centre. Positions alone change.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from renderers.topology import arrays, face_areas, tensors


def flatten(
    vertices: Tensor, faces: Tensor, turns: int = 12, moves: int = 15, sharpness: float = 0.25, reach: float = 0.008
) -> tuple[Tensor, Tensor]:
    """The mesh with its vertices moved: (V, 3) float32 and the same faces, on the CPU.

    turns: rounds over the normals; a patch grows to about as many faces across. moves: rounds over the vertices.
    sharpness: s; faces whose unit normals differ by more keep their crease. reach: how far a vertex may move at most
    (world units), so that thin parts do not wear away.
    """
    from scipy.sparse import coo_matrix

    v, f = arrays(vertices, faces)
    start = v
    count = len(f)
    corner = coo_matrix((np.ones(3 * count), (np.repeat(np.arange(count), 3), f.reshape(-1))), shape=(count, len(v)))
    beside = (corner @ corner.T).tocoo()  # faces that share a vertex
    a, b = beside.row, beside.col
    area = face_areas(v, f)
    n = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-30)
    for _ in range(turns):
        w = area[b] * np.exp(-((n[a] - n[b]) ** 2).sum(1) / (2 * sharpness**2))
        n = coo_matrix((w, (a, b)), shape=(count, count)).tocsr() @ n
        n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-30)
    at = corner.T.tocsr()
    degree = np.maximum(np.asarray(at.sum(1)), 1)
    for _ in range(moves):
        d = (n * v[f].mean(1)).sum(1)
        # mean of n (n . c) - (n n^T) v
        pull = at @ (n * d[:, None])
        outer = (at @ (n[:, :, None] * n[:, None]).reshape(count, 9)).reshape(-1, 3, 3)
        moved = v + (pull - (outer @ v[:, :, None])[:, :, 0]) / degree - start
        far = np.linalg.norm(moved, axis=1, keepdims=True)
        v = start + moved * np.minimum(1, reach / np.maximum(far, 1e-30))
    return tensors(v, f)
