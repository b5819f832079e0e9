"""Separate parts of a silhouette: specks that are left out, and several things where one object was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from app.pictures.masks import Mask, grown, labelled

FAINT = 0.1  # alpha that still joins parts
ALIKE = 0.2  # share of the largest thing from which on another is its like
SHEET = 4  # so many alike are no parts of one object
AWAY, GAP = 0.03, 0.05  # share of the largest part, and distance in object lengths, of what is small and far away
NOTABLE = 0.01  # share of the object that is not left out in silence


@dataclass(frozen=True)
class Loose:
    """`alpha` without its loose parts; how many of them were left out; their `share` of what is kept; whether they
    were in the object's bounding box."""

    alpha: NDArray[np.float32]
    count: int
    share: float
    inside: bool

    def notable(self, drawn: bool) -> bool:
        """`drawn`: by somebody, as a picture's alpha is, and not by the noise that a guess picks up."""
        return self.share > NOTABLE or (drawn and not self.inside)


def without_loose(alpha: NDArray[np.float32], part: float) -> Loose:
    """Alpha (H, W) without parts that are smaller than `part` of the largest, or small and far away."""
    labels = labelled(alpha > FAINT, corners=True)
    solid = alpha > 0.5
    sizes = np.bincount(labels[solid], minlength=int(labels.max()) + 1)
    sizes[0] = 0
    share = sizes / max(1, sizes.max())
    main = np.isin(labels, np.flatnonzero(share >= max(part, AWAY))) & solid
    lost = (sizes > 0) & (share < part)
    if part < AWAY:
        lost[[k for k in np.flatnonzero((share >= part) & (share < AWAY)) if _far(labels == k, main)]] = True
    if not lost.any():
        return Loose(alpha, 0, 0.0, True)
    near = grown(np.isin(labels, np.flatnonzero((sizes > 0) & ~lost)), 2)  # with their soft edges
    out = np.asarray(np.where(near, alpha, 0), np.float32)
    kept, dropped = solid & near, solid & ~near
    return Loose(out, int(lost.sum()), float(dropped.sum() / max(1, kept.sum())), _inside(dropped, kept))


def _far(part: Mask, main: Mask) -> bool:
    """Whether a gap of GAP of its longer side is around the bounding box of `main`, on the side of `part`."""
    bounds = [(np.flatnonzero(m.any(axis))[[0, -1]]) for axis in (0, 1) for m in (part, main)]
    gap = GAP * max(its[1] - its[0] for its in bounds[1::2])
    return any(
        mine[0] > its[1] + gap or mine[1] < its[0] - gap for mine, its in zip(bounds[::2], bounds[1::2], strict=True)
    )


def _inside(a: Mask, b: Mask) -> bool:
    """Whether the bounding box of `a` is, within a pixel or two, in that of `b`."""
    for axis in (0, 1):
        mine, its = np.flatnonzero(a.any(axis)), np.flatnonzero(b.any(axis))
        if len(mine) and (mine[0] < its[0] - 2 or mine[-1] > its[-1] + 2):
            return False
    return True


def things(alpha: NDArray[np.float32], part: float) -> tuple[int, int]:
    """(parts of at least the share `part` of the largest, things of like size) of a silhouette (H, W): parts whose
    bounding boxes overlap are one thing."""
    solid = alpha > 0.5
    labels = labelled(solid, corners=True)
    boxes = np.zeros_like(solid)
    for box in ndimage.find_objects(labels):
        boxes[box] = True
    groups = labelled(boxes)

    def large(which: NDArray[np.int32], share: float) -> int:
        sizes = np.bincount(which[solid], minlength=2)[1:]
        return int((sizes >= share * max(1, sizes.max())).sum())

    return large(labels, part), large(groups, ALIKE)
