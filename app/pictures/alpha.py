"""What a picture's own transparency means: a cut-out, a see-through object, an opaque picture with round corners."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.pictures.masks import grown, nearest, worn

SEEN = 0.04  # alpha above which something is drawn
SOLID = 0.9  # alpha above which nothing is seen through
RARE = 0.01  # share of what is drawn that may be solid in an object that is see-through as a whole
FAINT = 0.5  # of the solid area: so much that is see-through is no shadow, if its edge is sharp
EDGE = 3  # pixels within which a sharp edge is over
MARGIN, CORNER = 0.06, 0.3  # of the shorter side: where an opaque picture may be transparent
STRAY = 0.001  # share of its other pixels that may be


def solidified(alpha: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Alpha (H, W) of a see-through object as if it were solid; None where it is solid already, or a shadow or glow is
    all that is faint."""
    seen, solid = alpha > SEEN, alpha > SOLID
    if not seen.any():
        return None
    faint = seen & ~grown(solid, 2)
    if solid.sum() > RARE * seen.sum():
        inner = worn(seen, EDGE)
        ring = worn(seen, 1) & ~inner & faint
        if faint.sum() < FAINT * solid.sum() or not ring.any() or not (inner & faint).any():
            return None
        if np.median(alpha[ring]) < 0.5 * np.median(alpha[inner & faint]):
            return None
    level = np.median(alpha[faint if faint.any() else seen])
    return np.asarray(np.clip(alpha / level, 0, 1), np.float32)


def is_rectangle(alpha: NDArray[np.uint8]) -> bool:
    """Whether (H, W) is opaque but for its corners and a thin margin, as an icon or a screenshot is."""
    solid = alpha >= 128
    rows, columns = (np.flatnonzero(solid.any(axis)) for axis in (1, 0))
    if solid.all() or not len(rows):
        return False
    box = solid[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = box.shape
    margin = max(h - b for h, b in zip(solid.shape, box.shape, strict=True))
    corner = CORNER * min(height, width)
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    y, x = np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x)
    hole = ~box & ~((y < corner) & (x < corner))
    return margin <= 2 * MARGIN * min(solid.shape) and float(hole.mean()) < STRAY


def filled(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An opaque picture: transparent pixels of (H, W, 4), and those at their edge, have the nearest opaque one's
    colour."""
    opaque = worn(pixels[..., 3] > 250, 2, outside=True)
    if opaque.all() or not opaque.any():
        return pixels
    out = pixels[nearest(opaque)]
    out[..., 3] = 255
    return out
