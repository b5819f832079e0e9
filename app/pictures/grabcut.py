"""GrabCut (Rother, Kolmogorov and Blake 2004, by OpenCV): the border is background, the rest is fitted by colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

WORK = 384  # pixels of the longer side: its time grows with them, its result does not
SHORT = 64  # pixels of the shorter side, which a thin picture keeps


def grabcut(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W) alpha, its edge a pixel soft."""
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, max(WORK / max(height, width), SHORT / min(height, width)))
    small = np.ascontiguousarray(
        np.asarray(Image.fromarray(pixels[..., :3]).resize((round(width * scale), round(height * scale))))[..., ::-1]
    )
    h, w = small.shape[:2]
    mask = np.full((h, w), cv2.GC_PR_BGD, np.uint8)
    y, x = np.mgrid[:h, :w]
    mask[((x / w - 0.5) / 0.42) ** 2 + ((y / h - 0.5) / 0.42) ** 2 < 1] = cv2.GC_PR_FGD
    edge = max(1, min(round(0.02 * max(h, w)), min(h, w) // 8))
    mask[:edge] = mask[-edge:] = cv2.GC_BGD
    mask[:, :edge] = mask[:, -edge:] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small, mask, None, *models, 6, cv2.GC_INIT_WITH_MASK)  # pyright: ignore
    found = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    soft = ndimage.gaussian_filter(found, 0.7)
    large = Image.fromarray(soft).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(np.clip(np.asarray(large), 0, 1), np.float32)
