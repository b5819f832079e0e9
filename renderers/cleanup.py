"""Any triangles to a closed surface, as printing needs one: every edge has two faces that run opposite ways.

Corners at one place are welded; faces are oriented alike; where three or more faces meet at an edge they are paired
around it so that each pair encloses matter, and the surface is parted there (Gueziec et al. 2001, "Cutting and
stitching"); holes are closed by fans; sheets without thickness get one. Places that would fall together again when a
file without indices is read are moved apart by a thousandth of an edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from renderers.topology import (
    Floats,
    Ints,
    arrays,
    compact,
    doubled,
    edge_keys,
    face_areas,
    fans,
    faults,
    groups,
    half_edges,
    labels,
    partners,
    parts,
    tensors,
    volumes,
)

APART = 1e-3  # of the mean length of a vertex's edges: how far vertices at one place are moved apart
THIN = 1e-4  # a part with less volume than this times its area to the power 3/2 is a sheet
THICKNESS = 0.01  # of a sheet, as a share of the mesh's longest side


@dataclass(frozen=True)
class Repaired:
    """What `repair` did, as counts: corners welded, faces dropped that were degenerate or doubled, faces turned over,
    edges parted, holes filled, sheets thickened."""

    welded: int = 0
    dropped: int = 0
    turned: int = 0
    parted: int = 0
    holes: int = 0
    sheets: int = 0


def watertight(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """The mesh as a closed surface with outward faces: vertices (V', 3) float32, faces (F', 3) int32, on the CPU.

    vertices (V, 3), faces (F, 3). A mesh that is watertight already keeps every face. ValueError, one sentence, where
    vertices are not finite or no face has an area.
    """
    v, f, _ = repair(vertices, faces)
    return v, f


def repair(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Repaired]:
    """`watertight`, and what it took."""
    v, f = arrays(vertices, faces)
    usable(v, f)
    v = v.astype(np.float32).astype(np.float64)
    before = len(v)
    v, f = weld(v, f)
    welded, count = before - len(v), len(f)
    f = without_doubles(f)
    usable(v, f)
    dropped = count - len(f)
    if faults(f).manifold:
        turn = volumes(v, f).sum() < 0
        done = Repaired(welded=welded, dropped=dropped, turned=len(f) if turn else 0)
        return *tensors(*compact(v, f[:, ::-1] if turn else f)), done
    partner, parted = paired(v, f)
    f, partner, turned = oriented(v, f, partner)
    corner = fans(f, partner)
    source = np.zeros(int(corner.max()) + 1, np.int64)
    source[corner] = f.reshape(-1)
    v, f = v[source], corner.reshape(-1, 3)
    v, f, sheets = thickened(v, f)
    v, f, holes = filled(v, f)
    if volumes(v, f).sum() < 0:
        f = f[:, ::-1]
    v = apart(v, f)
    return *tensors(v, f), Repaired(welded, dropped, turned, parted, holes, sheets)


def usable(v: Floats, f: Ints) -> None:
    """ValueError, one sentence, where vertices are not finite or no face has an area."""
    if not np.isfinite(v).all():
        raise ValueError("The mesh has vertices that are not finite numbers and cannot be closed.")
    if len(f) == 0 or face_areas(v, f).sum() <= 0:
        raise ValueError("The mesh has no face with an area, so there is nothing to close.")


def places(v: NDArray[np.floating]) -> tuple[Ints, Ints]:
    """(P,) a vertex at each place, and (V,) the place of each vertex."""
    order = np.lexsort(v.T)
    new = np.r_[True, (v[order][1:] != v[order][:-1]).any(1)]
    place = np.empty(len(v), np.int64)
    place[order] = np.cumsum(new) - 1
    return order[new], place


def weld(v: Floats, f: Ints) -> tuple[Floats, Ints]:
    """One vertex for each place; faces that collapse by it go."""
    first, place = places(v)
    f = place[f]
    return compact(v[first], f[(f[:, 0] != f[:, 1]) & (f[:, 1] != f[:, 2]) & (f[:, 2] != f[:, 0])])


def without_doubles(f: Ints) -> Ints:
    """Of faces with the same three vertices, one is kept."""
    return np.delete(f, doubled(f), 0)


def paired(v: Floats, f: Ints) -> tuple[Ints, int]:
    """(3F,) each half-edge's partner or -1, and the number of edges with three or more faces.

    Seen along an edge, a face that runs forward has matter on the side of smaller angles; its partner is the face
    before it, if that runs backward.
    """
    start, end = half_edges(f)
    partner = partners(f)
    order, _, count = groups(edge_keys(f))
    edge = np.empty(len(order), np.int64)
    edge[order] = np.repeat(np.arange(len(count)), count)
    many = np.flatnonzero(count[edge] > 2)
    if len(many):
        forward = (start < end)[many]
        low, high = np.minimum(start, end)[many], np.maximum(start, end)[many]
        axis = v[high] - v[low]
        axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-30)
        x = np.cross(axis, np.eye(3)[np.abs(axis).argmin(1)])
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
        y = np.cross(axis, x)
        apex = v[np.roll(f, -2, 1).reshape(-1)[many]] - v[low]
        angle = np.arctan2((apex * y).sum(1), (apex * x).sum(1))
        by = np.lexsort((forward, angle, edge[many]))
        many, forward = many[by], forward[by]
        group = edge[many]
        first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        last = np.r_[first[1:], len(group)] - 1
        after = np.arange(len(group)) + 1
        after[last] = first
        k = np.flatnonzero(~forward & forward[after])
        partner[many[k]], partner[many[after[k]]] = many[after[k]], many[k]
    return partner, int((count > 2).sum())


def oriented(v: Floats, f: Ints, partner: Ints) -> tuple[Ints, Ints, int]:
    """Faces (F, 3) that run opposite ways at every edge that joins them, `partner` renumbered to them, and how many
    were turned over. Parts that were so already stay; others are turned to enclose a positive volume. Where no turning
    helps (a Moebius strip) edges are parted."""
    start, _ = half_edges(f)
    h = np.flatnonzero(partner > np.arange(len(partner)))
    p = partner[h]
    same = start[h] == start[p]
    if not same.any():
        return f, partner, 0
    n, a, b = len(f), h // 3, p // 3
    # twice every face, as it is and turned over: joined where they agree
    over = np.where(same, n, 0)
    sheet = labels(2 * n, np.concatenate([a, a + n]), np.concatenate([b + over, (b + n - over) % (2 * n)]))
    upright, turned = sheet[:n], sheet[n:]
    turn = upright > turned
    part = labels(n, a, b)
    wrong = np.zeros(part.max() + 1, bool)
    wrong[part[a[same]]] = True
    volume = np.bincount(part, weights=np.where(turn, -1, 1) * volumes(v - v.mean(0), f))
    turn ^= (volume < 0)[part]
    turn &= wrong[part] & (upright != turned)
    # a face that is turned over keeps its first corner: half-edge k becomes 2 - k
    number = np.arange(3 * n).reshape(n, 3)
    number[turn] = number[turn][:, ::-1]
    number = number.reshape(-1)
    f = np.where(turn[:, None], f[:, [0, 2, 1]], f)
    moved = np.full(3 * n, -1)
    both = np.flatnonzero(partner >= 0)
    moved[number[both]] = number[partner[both]]
    start, _ = half_edges(f)
    both = np.flatnonzero(moved >= 0)
    moved[both[start[both] == start[moved[both]]]] = -1
    return f, moved, int(turn.sum())


def boundary(f: Ints) -> Ints:
    """The half-edges (start, end) (E, 2) that have no other side."""
    start, end = half_edges(f)
    alone = partners(f) < 0
    return np.stack([start[alone], end[alone]], 1)


def filled(v: Floats, f: Ints) -> tuple[Floats, Ints, int]:
    """Every hole closed by a fan around the mean of its rim, and how many there were. Vertices have one fan each."""
    rim = boundary(f)
    if len(rim) == 0:
        return v, f, 0
    hole = np.unique(labels(len(v), rim[:, 0], rim[:, 1])[rim[:, 0]], return_inverse=True)[1]
    count = np.bincount(hole)
    middle = np.stack([np.bincount(hole, weights=v[rim[:, 0], k]) / count for k in range(3)], 1)
    cap = np.stack([rim[:, 1], rim[:, 0], len(v) + hole], 1)
    return np.concatenate([v, middle]), np.concatenate([f, cap]), len(count)


def thickened(v: Floats, f: Ints) -> tuple[Floats, Ints, int]:
    """Open parts that would enclose next to nothing as plates: their back side and a wall along the rim are added."""
    rim = boundary(f)
    if len(rim) == 0:
        return v, f, 0
    part = parts(f)
    owner = np.zeros(len(v), np.int64)
    owner[f] = part[:, None]
    count = int(part.max()) + 1
    closed_v, closed_f, _ = filled(v, f)
    of_cap = owner[closed_f[len(f) :, 0]]
    volume = np.bincount(np.r_[part, of_cap], weights=volumes(closed_v - v.mean(0), closed_f), minlength=count)
    area = np.bincount(part, weights=face_areas(v, f), minlength=count)
    has_rim = np.bincount(owner[rim[:, 0]], minlength=count) > 0
    sheet = has_rim & (np.abs(volume) < THIN * area**1.5)
    if not sheet.any():
        return v, f, 0
    front = f[sheet[part]]
    normal = np.zeros_like(v)
    for k in range(3):
        np.add.at(normal, front[:, k], np.cross(v[front[:, 1]] - v[front[:, 0]], v[front[:, 2]] - v[front[:, 0]]))
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    back = v - THICKNESS * float(np.ptp(v, axis=0).max()) * normal
    n = len(v)
    a, b = rim[sheet[owner[rim[:, 0]]]].T
    wall = np.concatenate([np.stack([b, a, a + n], 1), np.stack([b, a + n, b + n], 1)])
    v, f = compact(np.concatenate([v, back]), np.concatenate([f, front[:, ::-1] + n, wall]))
    return v, f, int(sheet.sum())


def apart(v: Floats, f: Ints) -> Floats:
    """Vertices that share a place in float32, moved inwards by APART of their edges, more where that is not enough."""
    start, end = half_edges(f)
    length = np.bincount(start, weights=np.linalg.norm(v[start] - v[end], axis=1), minlength=len(v))
    length /= np.maximum(np.bincount(start, minlength=len(v)), 1)
    normal, around = np.zeros_like(v), np.zeros_like(v)
    for k in range(3):
        np.add.at(normal, f[:, k], np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]))
        np.add.at(around, f[:, k], v[f].mean(1) - v[f[:, k]])
    away = -normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    away += around / np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-30)
    size = np.abs(v).max()
    least = np.maximum(length, 1e-3 * np.ptp(v, axis=0).max())
    for k in range(1, 9):
        _, place = places(v.astype(np.float32))
        shared = np.bincount(place)[place] > 1
        if not shared.any():
            break
        # a direction of each one's own, so that no two go the same way
        own = np.random.default_rng(k).normal(size=v.shape)
        step = np.maximum(APART * k * least, 4e-7 * size)[:, None]
        v = np.where(shared[:, None], v + step * (away + 0.25 * own), v)
    return v
