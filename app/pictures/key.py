"""A background of one colour, or of a straight gradient: what is like it goes.

    d(x) = |Lab(x) - (c_0 + c_1 x + c_2 y)|,  c fitted to the border's pixels          alpha = soft step of d

Only what reaches the border is background, and enclosed areas that cannot be told from it: a mug's handle. A white eye
on a white ground cannot be told from it either; what encloses something itself (a pupil) and what is small is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2lab

from app.pictures.masks import Mask, closed, labelled, worn

NEAR, FAR = 5.0, 12.0  # CIELAB distance to the background: surely background, surely not
PLAIN = 0.95  # share of the border that must be like the gradient fitted to it
EVEN = 2.0  # CIELAB distance that 95 % of the border must keep for enclosed areas to be judged
HOLE = 0.005  # share of the object from which on an enclosed area is cut
EMPTY = 0.02  # share of an enclosed area that may be something else


def is_plain(pixels: NDArray[np.uint8]) -> bool:
    """Whether the border of (H, W, 4) has one colour, or one gradient."""
    return bool((border(distance(pixels)[..., None]) < NEAR).mean() >= PLAIN)


@dataclass(frozen=True)
class Keyed:
    """`alpha` (H, W); the shares of the object that enclosed areas like the background were: `cut`, and `kept`."""

    alpha: NDArray[np.float32]
    cut: float
    kept: float


def key(pixels: NDArray[np.uint8], holes: str = "auto") -> Keyed:
    """`holes`: cut enclosed areas of the background's colour, keep them, or auto: cut them if the background is even,
    and they are as even, large and empty."""
    away = distance(pixels)
    labels = labelled(away < FAR)
    reached = np.setdiff1d(np.unique(border(labels[..., None])), [0])
    outside = np.isin(labels, reached)
    noise = float(np.quantile(border(away[..., None]), 0.95))
    whole = max(1, int((~outside).sum()))
    sizes = np.bincount(labels.ravel())
    like = set(np.unique(labels[away < NEAR]).tolist())
    cut: list[int] = []
    kept = 0
    for k in np.setdiff1d(np.arange(1, len(sizes)), reached).tolist():
        if k not in like:
            continue
        if holes == "cut" or (
            holes == "auto" and noise < EVEN and sizes[k] >= HOLE * whole and _is_hole(labels == k, away, noise)
        ):
            cut.append(k)
        elif sizes[k] >= HOLE * whole:
            kept += int(sizes[k])
    soft = np.clip((away - NEAR) / (FAR - NEAR), 0, 1)
    alpha = np.where(outside | np.isin(labels, cut), soft, 1.0)
    for k in cut if holes == "auto" else []:
        area = labels == k
        alpha[closed(area) & ~area] = 0  # specks of noise: auto cuts empty areas only
    alpha[worn(alpha > 0.5, 2)] = 1  # only an edge can be half background
    return Keyed(np.asarray(alpha, np.float32), float(sizes[cut].sum()) / whole, kept / whole)


def _is_hole(area: Mask, away: NDArray[np.float64], noise: float) -> bool:
    """Whether an area is as near to the background as the border is, but for its edge, and nothing is in it."""
    inner = worn(area, 2)
    if not inner.any() or float(np.median(away[inner])) > max(1.0, 1.5 * noise):  # JPEG rings about edges
        return False
    inside = worn(closed(area) & ~area, 1)  # JPEG leaves lines
    return float(inside.sum()) < EMPTY * float(area.sum())


def distance(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(H, W) CIELAB distance to the background: a linear function of the place, fitted to the border's pixels; twice,
    the second time without those that are far from the first fit (the object may reach the border)."""
    lab = rgb2lab(pixels[..., :3])
    height, width = lab.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width)
    basis = np.stack([np.ones_like(x), x, y], 2)
    rows, values = border(basis), border(lab)
    keep = np.linalg.norm(values - np.median(values, 0), axis=1) < 2.5 * FAR

    def fitted(keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        enough = keep if keep.sum() >= 8 else np.ones_like(keep)
        return np.linalg.lstsq(rows[enough], values[enough], rcond=None)[0]

    keep = np.linalg.norm(values - rows @ fitted(keep), axis=1) < FAR
    return np.linalg.norm(lab - basis @ fitted(keep), axis=2)


def border(values: NDArray) -> NDArray:
    """(N, C): the outermost pixels."""
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
