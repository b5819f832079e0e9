"""Masks (H, W) and what is done with them: SciPy's morphology, with its types."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
ANY = np.ones((3, 3), bool)  # pixels that touch at a corner are neighbours, too


def labelled(mask: Mask, corners: bool = False) -> NDArray[np.int32]:
    """Connected areas numbered from 1, elsewhere 0."""
    return np.asarray(ndimage.label(mask, ANY if corners else None)[0], np.int32)  # pyright: ignore


def grown(mask: Mask, pixels: int) -> Mask:
    return np.asarray(ndimage.binary_dilation(mask, iterations=pixels), bool)


def worn(mask: Mask, pixels: int, outside: bool = False) -> Mask:
    """Without its outer pixels; `outside`: beyond the picture it goes on."""
    return np.asarray(ndimage.binary_erosion(mask, iterations=pixels, border_value=int(outside)), bool)


def closed(mask: Mask) -> Mask:
    """With what it encloses."""
    return np.asarray(ndimage.binary_fill_holes(mask), bool)


def nearest(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(rows, columns) of the mask's pixel that is nearest to each; the mask must have one."""
    y, x = np.asarray(ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True))
    return y, x
