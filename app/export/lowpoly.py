"""The low-poly finish: few flat faces, each of one colour from a small palette, as game artists' packs have them.

    E(l) = sum over faces of A_f min(|c_f - p_l(f)|^2, FAR^2) + lambda sum over edges of w_e [l(f) != l(g)]

c_f are the faces' colours and p_l the palette, both in CIELAB; w_e is the edge's length, times exp(-angle / CREASE) of
the dihedral angle: colours may change where the surface bends. The palette is found by k-means, the labels by iterated
conditional modes (Besag 1986), first on the dense mesh, whose borders between colours the decimation then keeps, and
again on the few faces that are left. Bumps are flattened first (renderers/flatten.py), or the few faces would show
them as crumpled paper does. Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from app.export.glb import TexturedMesh
from renderers.decimate import decimate
from renderers.flatten import flatten
from renderers.topology import Floats, Ints, arrays, face_areas, labels, partners

FAR = 40.0  # CIELAB: a colour further off than this costs no more
ALIKE = 12.0  # CIELAB: palette colours nearer than this are one
BLOTCH = 10.0  # CIELAB: differences between neighbours that are taken for blotches rather than borders
BLUR = 20  # rounds
RARE = 0.004  # of the surface: a palette colour, or a patch, with less goes
CREASE = 0.6  # radians
LIGHTNESS = 0.7  # weight of L* beside a* and b*
CELL = 8  # texels along a palette colour's square
BORDER = 1.0  # of colours, beside a face's quadric
NEAR = 0.1  # world units that a turned normal counts as, where the dense surface's colours are looked up
POINTS = ((4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 2))  # barycentric, in sixths


@dataclass(frozen=True)
class LowPoly:
    """mesh: as it stands in a file. colors (K, 3) uint8 sRGB. label (F,) int64: each face's colour."""

    mesh: TexturedMesh
    colors: NDArray[np.uint8]
    label: Ints


def surface_colors(
    vertices: Tensor, faces: Tensor, color: Callable[[Tensor], Tensor], attributes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Points on each face (F, P, 3) and their colours (F, P, 3), sRGB in [0, 1]. `color` as app/export/bake.py has
    it."""
    weights = torch.tensor(POINTS, dtype=torch.float32, device=vertices.device) / 6
    corners = faces.long()
    points = weights @ vertices[corners]
    seen = points if attributes is None else torch.cat([points, weights @ attributes[corners]], 2)
    with torch.no_grad():
        found = color(seen.reshape(-1, seen.shape[2])).reshape(points.shape)
    return points, found.clamp(0, 1)


def low_poly(
    vertices: Tensor, faces: Tensor, colors: Tensor, target_faces: int = 1000, palette: int = 10, smooth: float = 0.01
) -> LowPoly:
    """A closed mesh, (V, 3) and (F, 3), with the colours (F, P, 3) of its faces' points (`surface_colors`), finished.

    target_faces: at most, where the topology allows it. palette: colours at most. smooth: lambda, in world units of
    FAR squared: about how wide a patch must be to have a colour of its own.
    """
    vertices, faces = flatten(vertices, faces)
    v, f = arrays(vertices, faces)
    seen = colors.cpu().double().numpy()
    area = face_areas(v, f)
    lab = smoothed(v, f, to_lab(seen.mean(1)))
    centres = find_palette(lab, area, palette)
    unary = area[:, None] * costs(lab, centres)
    label = potts(v, f, unary, smooth)
    borders = torch.from_numpy(border_edges(f, label))
    few = decimate(vertices, faces, target_faces, borders if len(borders) else None, BORDER)
    w, g = arrays(*few)
    unary = looked_up(w, g, v, f, label, len(centres))
    label_few = potts(w, g, unary, smooth / 3)
    used, label_few = np.unique(label_few, return_inverse=True)
    chosen = (mean_colors(seen.mean(1), lab, centres, area)[used].clip(0, 1) * 255).round().astype(np.uint8)
    return LowPoly(flat_shaded(w, g, label_few, chosen), chosen, label_few)


def to_lab(srgb: Floats) -> Floats:
    """CIELAB (D65) of sRGB in [0, 1], with L* times LIGHTNESS."""
    from skimage.color import rgb2lab

    return rgb2lab(srgb) * (LIGHTNESS, 1, 1)


def find_palette(lab: Floats, weight: Floats, most: int) -> Floats:
    """(K, 3) k-means centres, K <= most, of colours (N, 3) that weigh (N,): first the mean, then always the colour
    whose distance to the palette, times its weight, is largest. Centres that are alike become one; rare ones go."""
    centres = (weight @ lab / weight.sum())[None]
    far = ((lab - centres[0]) ** 2).sum(1)
    centres = lab[[int((far * weight).argmin())]]
    while len(centres) < most:
        far = nearest(lab, centres)[1]
        if far.max() < ALIKE**2:
            break
        # a colour's own neighbourhood counts, so that a lone texel does not make a colour
        pick = int((np.minimum(far, FAR**2) * weight).argmax())
        near = ((lab - lab[pick]) ** 2).sum(1) < ALIKE**2
        centres = np.concatenate([centres, (weight[near] @ lab[near] / weight[near].sum())[None]])
        centres = lloyd(lab, weight, centres, 4)
    while True:
        centres = lloyd(lab, weight, centres, 20)
        share = np.bincount(nearest(lab, centres)[0], weight, len(centres)) / weight.sum()
        gap = np.linalg.norm(centres[:, None] - centres, axis=2) + 1e9 * np.eye(len(centres))
        if len(centres) > 1 and share.min() < RARE:
            centres = np.delete(centres, share.argmin(), 0)
        elif len(centres) > 1 and gap.min() < ALIKE:
            a, b = np.unravel_index(gap.argmin(), gap.shape)
            centres[a] = (share[a] * centres[a] + share[b] * centres[b]) / (share[a] + share[b])
            centres = np.delete(centres, b, 0)
        else:
            return centres


def nearest(lab: Floats, centres: Floats) -> tuple[Ints, Floats]:
    """(N,) the nearest centre and its squared distance."""
    far = ((lab[:, None] - centres) ** 2).sum(2)
    return far.argmin(1), far.min(1)


def lloyd(lab: Floats, weight: Floats, centres: Floats, rounds: int) -> Floats:
    for _ in range(rounds):
        own = nearest(lab, centres)[0]
        total = np.bincount(own, weight, len(centres))
        mean = np.stack([np.bincount(own, weight * lab[:, k], len(centres)) for k in range(3)], 1)
        centres = np.where(total[:, None] > 0, mean / np.maximum(total, 1e-30)[:, None], centres)
    return centres


def costs(lab: Floats, centres: Floats) -> Floats:
    """(F, K) in [0, 1]: the faces' (F, 3) squared distances to each colour, over FAR's."""
    return np.minimum(((lab[:, None] - centres) ** 2).sum(2) / FAR**2, 1)


def mean_colors(srgb: Floats, lab: Floats, centres: Floats, area: Floats) -> Floats:
    """(K, 3) sRGB of each palette colour: the mean of the faces (F, 3) that are nearest to it. What a patch holds of
    other colours does not muddy it."""
    own = nearest(lab, centres)[0]
    total = np.maximum(np.bincount(own, area, len(centres)), 1e-30)
    return np.stack([np.bincount(own, area * srgb[:, k], len(centres)) / total for k in range(3)], 1)


def smoothed(v: Floats, f: Ints, lab: Floats) -> Floats:
    """Colours of faces (F, 3), each drawn towards those beside it that are not far off: blotches go, borders stay."""
    from scipy.sparse import coo_matrix

    a, b, w = dual(v, f)
    a, b, w = np.concatenate([a, b]), np.concatenate([b, a]), np.concatenate([w, w])
    own = np.bincount(a, w, len(f))
    for _ in range(BLUR):
        near = w * np.exp(-((lab[a] - lab[b]) ** 2).sum(1) / (2 * BLOTCH**2))
        total = own + np.bincount(a, near, len(f))
        lab = (own[:, None] * lab + coo_matrix((near, (a, b)), shape=(len(f),) * 2) @ lab) / np.maximum(total, 1e-30)[
            :, None
        ]
    return lab


def dual(v: Floats, f: Ints) -> tuple[Ints, Ints, Floats]:
    """Faces on both sides of every inner edge (E,), (E,), and the edge's weight (E,)."""
    partner = partners(f)
    h = np.flatnonzero(partner > np.arange(len(partner)))
    a, b = h // 3, partner[h] // 3
    start, end = f.reshape(-1)[h], np.roll(f, -1, 1).reshape(-1)[h]
    n = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-30)
    angle = np.arccos((n[a] * n[b]).sum(1).clip(-1, 1))
    return a, b, np.linalg.norm(v[start] - v[end], axis=1) * np.exp(-angle / CREASE)


def potts(v: Floats, f: Ints, unary: Floats, smooth: float) -> Ints:
    """(F,) labels of least energy from `unary` (F, K), as far as iterated conditional modes find them; then patches
    with less than RARE of the surface take the colour around them."""
    a, b, w = dual(v, f)
    count = len(f)
    ends, other = np.concatenate([a, b]), np.concatenate([b, a])
    order = np.argsort(ends, kind="stable")
    first = np.searchsorted(ends[order], np.arange(count + 1))
    other, pair = other[order], np.concatenate([w, w])[order] * smooth
    # from the data alone a patch is too noisy to start from: first each face hears its neighbourhood
    heard = unary.copy()
    for _ in range(4):
        total = np.zeros_like(heard)
        np.add.at(total, ends, heard[np.concatenate([b, a])])
        heard = unary + total / 3
    label = heard.argmin(1)
    _modes(unary, first, other, pair, label)
    area = face_areas(v, f)
    for _ in range(8):
        same = label[a] == label[b]
        patch = labels(count, a[same], b[same])
        small = np.bincount(patch, area)[patch] < RARE * area.sum()
        if not small.any():
            break
        touch = np.zeros((int(patch.max()) + 1, unary.shape[1]))
        np.add.at(touch, (patch[a], label[b]), w * ~same)
        np.add.at(touch, (patch[b], label[a]), w * ~same)
        has = touch.max(1) > 0
        label = np.where(small & has[patch], touch.argmax(1)[patch], label)
    return label


@njit(cache=True, nogil=True)
def _modes(unary, first, other, pair, label):  # pragma: no cover - compiled
    """Each face in turn takes the label that is best given its neighbours', until none changes."""
    cost = np.empty(unary.shape[1])
    for _ in range(50):
        changed = 0
        for face in range(len(label)):
            cost[:] = unary[face]
            for k in range(first[face], first[face + 1]):
                cost += pair[k]
                cost[label[other[k]]] -= pair[k]
            best = cost.argmin()
            if cost[best] < cost[label[face]]:
                label[face] = best
                changed += 1
        if changed == 0:
            break


def border_edges(f: Ints, label: Ints) -> Ints:
    """(B, 2) the vertices of edges between faces of different labels."""
    partner = partners(f)
    h = np.flatnonzero(partner > np.arange(len(partner)))
    h = h[label[h // 3] != label[partner[h] // 3]]
    return np.stack([f.reshape(-1)[h], np.roll(f, -1, 1).reshape(-1)[h]], 1)


def looked_up(w: Floats, g: Ints, v: Floats, f: Ints, label: Ints, count: int) -> Floats:
    """(G, K) area of each face of the few that the dense surface (v, f) beside it does not colour so."""
    from scipy.spatial import KDTree

    def normals(v: Floats, f: Ints) -> Floats:
        n = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
        return NEAR * n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-30)

    tree = KDTree(np.concatenate([v[f].mean(1), normals(v, f)], 1))
    steps = 8  # points along a face's side
    i, j = np.meshgrid(np.arange(steps), np.arange(steps), indexing="ij")
    inside = i + j < steps
    u, t = (i[inside] + 1 / 3) / steps, (j[inside] + 1 / 3) / steps
    points = np.stack([1 - u - t, u, t], 1) @ w[g]
    looks = np.concatenate([points, np.broadcast_to(normals(w, g)[:, None], points.shape)], 2)
    found = label[tree.query(looks.reshape(-1, 6))[1]].reshape(len(g), -1)
    votes = (found[:, :, None] == np.arange(count)).mean(1)
    return face_areas(w, g)[:, None] * (1 - votes)


def flat_shaded(v: Floats, f: Ints, label: Ints, colors: NDArray[np.uint8]) -> TexturedMesh:
    """The mesh with three vertices of its own for each face, and a palette of squares as its texture."""
    side = int(np.ceil(np.sqrt(len(colors))))
    cells = np.concatenate([colors, np.repeat(colors[-1:], side * side - len(colors), 0)]).reshape(side, side, 3)
    texture = cells.repeat(CELL, 0).repeat(CELL, 1)
    n = np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-30)
    uv = (np.stack([label % side, label // side], 1) + 0.5) / side

    def float32(x: Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))

    return TexturedMesh(
        vertices=float32(v[f].reshape(-1, 3)),
        faces=torch.arange(3 * len(f), dtype=torch.int32).reshape(-1, 3),
        uv=float32(uv.repeat(3, 0)),
        normals=float32(n.repeat(3, 0)),
        texture=torch.from_numpy(np.ascontiguousarray(texture)),
    )


def compile_kernels() -> None:
    """Compiles on two faces."""
    one = np.zeros(1, np.int64)
    _modes(np.zeros((1, 1)), np.zeros(2, np.int64), one, np.zeros(1), one)
