"""Loose parts that nobody misses: those with next to no surface, and those inside others, which no side sees.

A part is inside where the generalized winding number of the other parts' faces (the solid angle under which they are
seen, over 4 pi; van Oosterom and Strackee 1983) is at least a half at every point looked from. The shell of a cavity
is inside what surrounds it: the cavity is filled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from torch import Tensor

from renderers.cleanup import Repaired, repair, usable
from renderers.topology import Bools, Floats, Ints, arrays, compact, face_areas, faults, parts, tensors

SMALL = 0.001  # of the surface
WORK = 4e8  # solid angles at most, spread over the parts; each is looked from at LOOKS points at most, 8 at least
LOOKS = 256


@dataclass(frozen=True)
class Cleaned:
    """What `clean` did: parts dropped because they were small, or inside others, and what the repair did, or None
    where the mesh was a closed manifold."""

    small: int = 0
    hidden: int = 0
    repaired: Repaired | None = None

    def sentence(self) -> str:
        """What a person may want to know; empty where nothing was done."""
        did = [f"dropped {n} {what} part{'s' if n > 1 else ''}" for n, what in self._dropped() if n]
        if self.repaired is not None:
            did.append("closed the surface")
        return f"Cleaned the mesh: {', '.join(did)}." if did else ""

    def _dropped(self) -> tuple[tuple[int, str], ...]:
        return (self.small, "tiny"), (self.hidden, "hidden")


def clean(vertices: Tensor, faces: Tensor, smallest: float = SMALL) -> tuple[Tensor, Tensor, Cleaned]:
    """The mesh (V, 3), (F, 3) without parts that are small or hidden, as a closed manifold, on the CPU.

    smallest: share of the surface. ValueError, one sentence, for a mesh that nothing can be made of.
    """
    usable(*arrays(vertices, faces))
    vertices, faces, small = drop_small(vertices, faces, smallest)
    vertices, faces, hidden = drop_hidden(vertices, faces)
    if faults(arrays(vertices, faces)[1]).manifold:
        return vertices, faces, Cleaned(small, hidden)
    vertices, faces, repaired = repair(vertices, faces)
    return vertices, faces, Cleaned(small, hidden, repaired)


def drop_small(vertices: Tensor, faces: Tensor, smallest: float = SMALL) -> tuple[Tensor, Tensor, int]:
    """Without the parts that have less than `smallest` of the surface, and how many those were. The largest stays."""
    v, f = arrays(vertices, faces)
    if len(f) == 0:
        raise ValueError("The mesh is empty: there is no surface.")
    part = parts(f)
    area = np.bincount(part, face_areas(v, f))
    keep = area >= smallest * area.sum()
    keep[area.argmax()] = True
    return *_kept(vertices, faces, v, f, keep[part]), int((~keep).sum())


def drop_hidden(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, int]:
    """Without the parts that lie wholly inside others, and how many those were."""
    v, f = arrays(vertices, faces)
    part = parts(f)
    count = int(part.max()) + 1
    looks = int(np.clip(WORK / (len(f) * count), 8, LOOKS))
    hidden = np.zeros(count, bool)
    by_size = np.argsort(np.bincount(part, face_areas(v, f)), kind="stable")
    for k in by_size[:-1] if count > 1 else ():  # small ones first; the largest is seen
        own = np.unique(f[part == k])
        # its ends along the axes are looked from first
        ends = np.concatenate([v[own].argmin(0), v[own].argmax(0)])
        spread = np.linspace(0, len(own) - 1, min(looks, len(own))).astype(np.int64)
        others = (part != k) & ~hidden[part]
        hidden[k] = _all_inside(v[own[np.concatenate([ends, spread])]], v, f[others])
    return *_kept(vertices, faces, v, f, ~hidden[part]), int(hidden.sum())


def _kept(vertices: Tensor, faces: Tensor, v: Floats, f: Ints, keep: Bools) -> tuple[Tensor, Tensor]:
    return (vertices, faces) if keep.all() else tensors(*compact(v, f[keep]))


@njit(cache=True, nogil=True)
def _all_inside(points, v, f):  # pragma: no cover - compiled
    """Whether the winding number of faces f is a half or more at each of the points (N, 3)."""
    for p in range(len(points)):
        total = 0.0
        for k in range(len(f)):
            a, b, c = v[f[k, 0]] - points[p], v[f[k, 1]] - points[p], v[f[k, 2]] - points[p]
            la, lb, lc = math.sqrt((a * a).sum()), math.sqrt((b * b).sum()), math.sqrt((c * c).sum())
            volume = (
                a[0] * (b[1] * c[2] - b[2] * c[1])
                + a[1] * (b[2] * c[0] - b[0] * c[2])
                + a[2] * (b[0] * c[1] - b[1] * c[0])
            )
            total += math.atan2(volume, la * lb * lc + (a * b).sum() * lc + (b * c).sum() * la + (c * a).sum() * lb)
        if not total / (2 * math.pi) >= 0.5:
            return False
    return True


def compile_kernels() -> None:
    """Compiles on a point and a face."""
    _all_inside(np.zeros((1, 3)), np.eye(3), np.arange(3).reshape(1, 3))
