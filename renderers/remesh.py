"""Isotropic remeshing of a closed mesh (Botsch and Kobbelt 2004): split long edges, collapse short ones, flip towards
six neighbours a vertex, move vertices along the surface towards the middle of their neighbours.

Instead of one edge at a time (a queue), each pass changes all edges of an independent set, the best of their
neighbourhood, so that every operation is a few array operations; this is how the continuous remeshing that Direct2.5
fits with works (Palfinger 2022). A closed manifold stays one: an edge collapses only if its ends have exactly two
common neighbours (the link condition), flips only to an edge that is not there, and no change may turn a face over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LONG, SHORT = 4 / 3, 4 / 5  # edges are kept between these multiples of the target length
PASSES = 8  # independent sets of splits, and of collapses, a round at most
TURNED = 0.5  # a change is refused if it turns a face's normal beyond this cosine
FLAT = 0.8  # only edges between faces whose normals have at least this cosine flip

Floats, Ints = NDArray[np.float64], NDArray[np.int64]


@dataclass(frozen=True)
class Edges:
    """ends (E, 2), ascending; faces (E, 2), the face that runs ends[0] -> ends[1] first; apex (E, 2), their third
    vertices. Only edges of exactly two faces that run opposite ways; the rest is left alone."""

    ends: Ints
    faces: Ints
    apex: Ints


def edges_of(f: Ints) -> Edges:
    """The manifold edges of faces (F, 3)."""
    start, end, apex = f.reshape(-1), np.roll(f, -1, 1).reshape(-1), np.roll(f, -2, 1).reshape(-1)
    face = np.repeat(np.arange(len(f)), 3)
    forward = start < end
    key = np.minimum(start, end) * (int(f.max()) + 1) + np.maximum(start, end)
    order = np.lexsort((~forward, key))
    key, forward, face, apex = key[order], forward[order], face[order], apex[order]
    _, first, count = np.unique(key, return_index=True, return_counts=True)
    first = first[count == 2]
    first = first[forward[first] & ~forward[first + 1]]
    low = key[first] // (int(f.max()) + 1)
    ends = np.stack([low, key[first] - low * (int(f.max()) + 1)], 1)
    return Edges(ends, np.stack([face[first], face[first + 1]], 1), np.stack([apex[first], apex[first + 1]], 1))


def _normals(v: Floats, f: Ints) -> Floats:
    """Unit face normals (F, 3); zero where flat."""
    p = v[f]
    n = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    return n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-20)


def _lengths(v: Floats, ends: Ints) -> Floats:
    return np.linalg.norm(v[ends[:, 0]] - v[ends[:, 1]], axis=1)


def _least(values: Ints, at: Ints, size: int) -> Ints:
    """(size,) the smallest of `values` (N,) that fall on each index of `at` (N, K)."""
    out = np.full(size, np.iinfo(np.int64).max)
    for column in at.T:
        np.minimum.at(out, column, values)
    return out


def _rank(order: Floats) -> Ints:
    rank = np.empty(len(order), np.int64)
    rank[np.argsort(order, kind="stable")] = np.arange(len(order))
    return rank


def split(v: Floats, f: Ints, limit: float) -> tuple[Floats, Ints]:
    """Halve edges longer than `limit` that are the longest of both of their faces."""
    for _ in range(PASSES):
        e = edges_of(f)
        length = _lengths(v, e.ends)
        rank = _rank(-length)
        best = _least(rank, e.faces, len(f))
        chosen = (length > limit) & (best[e.faces[:, 0]] == rank) & (best[e.faces[:, 1]] == rank)
        if not chosen.any():
            break
        (a, b), (c, d), (one, two) = e.ends[chosen].T, e.apex[chosen].T, e.faces[chosen].T
        m = len(v) + np.arange(len(a))
        v = np.concatenate([v, (v[a] + v[b]) / 2])
        f = f.copy()
        f[one], f[two] = np.stack([a, m, c], 1), np.stack([m, a, d], 1)
        f = np.concatenate([f, np.stack([m, b, c], 1), np.stack([b, m, d], 1)])
    return v, f


def collapse(v: Floats, f: Ints, short: float, long: float) -> tuple[Floats, Ints]:
    """Merge the ends of edges shorter than `short`, where that leaves the mesh closed, no edge longer than `long` and
    no face turned over."""
    refused: set[tuple[int, int]] = set()
    for _ in range(PASSES):
        e = edges_of(f)
        length = _lengths(v, e.ends)
        wanted = length < short
        if refused:
            wanted &= np.fromiter(((a, b) not in refused for a, b in e.ends.tolist()), bool, len(wanted))
        if not wanted.any():
            break
        degree = np.bincount(e.ends.reshape(-1), minlength=len(v))
        rank = np.where(wanted, _rank(length), np.iinfo(np.int64).max)
        # the best edge of the one-rings of both ends: no two chosen edges touch the same faces
        near = _least(rank, e.ends, len(v))
        ring = near.copy()
        for x, y in (e.ends.T, e.ends.T[::-1]):
            np.minimum.at(ring, x, near[y])
        chosen = wanted & (ring[e.ends[:, 0]] == rank) & (ring[e.ends[:, 1]] == rank)
        a, b = e.ends[chosen].T
        common = _common_neighbours(e.ends, a, b, len(v))
        fine = (common == 2) & (degree[a] > 3) & (degree[b] > 3)

        owner = np.full(len(v), -1)
        owner[a] = owner[b] = np.arange(len(a))
        moved = v.copy()
        moved[a] = moved[b] = (v[a] + v[b]) / 2
        corner = owner[f]
        touched = (corner >= 0).any(1)
        which, vanishes = corner[touched].max(1), (corner[touched] >= 0).sum(1) == 2
        before, after = _normals(v, f[touched]), _normals(moved, f[touched])
        p = moved[f[touched]]
        longest = np.linalg.norm(p - np.roll(p, -1, 1), axis=2).max(1)
        bad = ~vanishes & (((before * after).sum(1) < TURNED) | (longest > long))
        fine[which[bad]] = False
        refused |= set(zip(a[~fine].tolist(), b[~fine].tolist(), strict=True))
        a, b = a[fine], b[fine]
        v = v.copy()
        v[a] = (v[a] + v[b]) / 2
        onto = np.arange(len(v))
        onto[b] = a
        f = onto[f]
        f = f[(f[:, 0] != f[:, 1]) & (f[:, 1] != f[:, 2]) & (f[:, 2] != f[:, 0])]
        # vertices keep their numbers, so that `refused` stays true
    used, renumbered = np.unique(f, return_inverse=True)
    return v[used], renumbered.reshape(-1, 3)


def _common_neighbours(ends: Ints, a: Ints, b: Ints, vertices: int) -> Ints:
    """(K,) how many vertices are joined to both a[k] and b[k]."""
    both = np.concatenate([ends, ends[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    start = np.searchsorted(both[:, 0], np.arange(vertices + 1))
    keys = np.sort(both[:, 0] * vertices + both[:, 1])
    count = start[a + 1] - start[a]
    k = np.repeat(np.arange(len(a)), count)
    step = np.arange(len(k)) - np.repeat(np.cumsum(count) - count, count)
    probe = b[k] * vertices + both[start[a[k]] + step, 1]
    at = np.searchsorted(keys, probe).clip(max=len(keys) - 1)
    return np.bincount(k[keys[at] == probe], minlength=len(a))


def flip(v: Floats, f: Ints) -> Ints:
    """Turn edges between nearly flat faces so that vertices have closer to six neighbours."""
    e = edges_of(f)
    degree = np.bincount(e.ends.reshape(-1), minlength=len(v))
    (a, b), (c, d) = e.ends.T, e.apex.T

    def cost(*vertices: tuple[Ints, int]) -> Ints:
        return sum(((degree[x] + change - 6) ** 2 for x, change in vertices), start=np.zeros(len(a), np.int64))

    gain = cost((a, 0), (b, 0), (c, 0), (d, 0)) - cost((a, -1), (b, -1), (c, 1), (d, 1))
    n = _normals(v, f)
    flat = (n[e.faces[:, 0]] * n[e.faces[:, 1]]).sum(1) > FLAT
    one, two = np.stack([a, d, c], 1), np.stack([d, b, c], 1)
    mean = n[e.faces].sum(1)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-20)
    upright = ((_normals(v, one) * mean).sum(1) > FLAT) & ((_normals(v, two) * mean).sum(1) > FLAT)
    size = len(v)
    present = np.isin(np.minimum(c, d) * size + np.maximum(c, d), a * size + b)
    wanted = (gain > 0) & flat & upright & ~present & (c != d) & (degree[a] > 3) & (degree[b] > 3)
    rank = np.where(wanted, _rank(-gain.astype(np.float64)), np.iinfo(np.int64).max)
    around = np.concatenate([e.ends, e.apex], 1)
    best = _least(rank, around, len(v))
    chosen = wanted & (best[around] == rank[:, None]).all(1)
    f = f.copy()
    f[e.faces[chosen, 0]], f[e.faces[chosen, 1]] = one[chosen], two[chosen]
    return f


def relax(v: Floats, f: Ints, share: float = 0.5) -> Floats:
    """Move each vertex in its tangent plane by `share` of the way to the mean of its neighbours."""
    ends = edges_of(f).ends
    total, count = np.zeros_like(v), np.bincount(ends.reshape(-1), minlength=len(v))
    for x, y in (ends.T, ends.T[::-1]):
        np.add.at(total, x, v[y])
    away = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None] - v, 0)
    p = v[f]
    normal = np.zeros_like(v)
    for k in range(3):
        np.add.at(normal, f[:, k], np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]))
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
    return v + share * (away - (away * normal).sum(1, keepdims=True) * normal)


def remesh(vertices: Tensor, faces: Tensor, length: float, rounds: int = 3) -> tuple[Tensor, Tensor]:
    """Vertices (V', 3) float32 and faces (F', 3) int32 with edges of about `length`, on the input's device.

    ValueError for a length that is not positive, or a mesh without faces.
    """
    if not length > 0 or len(faces) == 0:
        raise ValueError(f"remeshing needs faces and a positive length, got {len(faces)} and {length}")
    v, f = vertices.detach().cpu().double().numpy(), faces.cpu().long().numpy()
    for _ in range(rounds):
        v, f = split(v, f, LONG * length)
        v, f = collapse(v, f, SHORT * length, LONG * length)
        f = flip(v, f)
        v = relax(v, f)
    out = torch.from_numpy(v.astype(np.float32)), torch.from_numpy(f.astype(np.int32))
    return out[0].to(vertices.device), out[1].to(vertices.device)
