"""Cutting the object out of a picture, and framing it by its silhouette.

    alpha     the picture's own transparency, untouched
    key       a background of one colour, or of a straight gradient fitted to the border: what is like it and reaches
              the border, in CIELAB
    grabcut   GrabCut (Rother et al. 2004, OpenCV): the border is background, the rest is fitted by colour
    rembg     a neural matting model (extra `rembg`; `rembg_model` a local ONNX file)
    none      the whole picture is the object
    auto      alpha where there is transparency, key where the border has one colour, grabcut otherwise

A cut-out is square; the silhouette's bounding box is in its middle and its larger half-extent FILL of half its side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2lab
from torch import Tensor

from app.errors import MissingError, UsageError
from app.pictures.pose import FILL

SIDE = 512
TRANSPARENT = 0.01  # share of pixels that must be see-through for alpha to mean something
KEY_NEAR, KEY_FAR = 5.0, 12.0  # CIELAB distance to the border's colour: surely background, surely not
UNIFORM = 0.95  # share of the border that must be like the gradient fitted to it
SOLID = 0.95  # alpha of pixels without background in them
SMALLEST, LARGEST = 0.003, 0.97  # share of the picture that an object may cover
PART = 0.05  # loose parts smaller than this share of the largest are dropped


@dataclass(frozen=True)
class Cutout:
    """rgba (4, 512, 512) in [0, 1], straight alpha; `how`, what auto stood for; `cropped`: the object
    reaches the picture's edge, so a part of it is missing."""

    rgba: Tensor
    how: str
    cropped: bool


def cut_out(pixels: NDArray[np.uint8], background: str = "auto", rembg_model: Path | None = None) -> Cutout:
    """Of a picture (H, W, 4). UsageError where no object is found, MissingError without the extra that was asked
    for."""
    how = choose(pixels) if background == "auto" else background
    if how == "alpha":
        alpha = np.asarray(pixels[..., 3] / 255, np.float32)
        if alpha.min() > 0.5:
            raise UsageError("The picture has no transparency; use --background auto, key or grabcut.")
    elif how == "key":
        alpha = key(pixels)
    elif how == "grabcut":
        alpha = grabcut(pixels)
    elif how == "rembg":
        alpha = rembg(pixels, rembg_model)
    else:
        alpha = np.ones(pixels.shape[:2], np.float32)
    if how in ("key", "grabcut", "rembg"):
        alpha = without_specks(alpha)
        share = float((alpha > 0.5).mean())
        if not SMALLEST <= share <= LARGEST:
            raise UsageError(
                f"No object was found in the picture ({how} kept {100 * share:.0f} % of it); choose another "
                "--background, or give a picture with a transparent background."
            )
        return frame(without_fringe(pixels[..., :3], alpha), alpha, how)
    if not (alpha > 0.5).any():
        raise UsageError("The picture is transparent everywhere; give one that shows an object.")
    return frame(pixels[..., :3], alpha, how)


def choose(pixels: NDArray[np.uint8]) -> str:
    """What `auto` stands for in this picture."""
    if (pixels[..., 3] < 128).mean() >= TRANSPARENT:
        return "alpha"
    near = _border(_distance(pixels)[..., None]) < KEY_NEAR
    return "key" if near.mean() >= UNIFORM else "grabcut"


def key(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W) alpha. What has the border's colour inside the object is kept: only what reaches the border goes."""
    distance = _distance(pixels)
    labels, _ = ndimage.label(distance < KEY_FAR)  # pyright: ignore[reportGeneralTypeIssues]
    outside = np.isin(labels, np.setdiff1d(np.unique(_border(labels[..., None])), [0]))
    soft = np.clip((distance - KEY_NEAR) / (KEY_FAR - KEY_NEAR), 0, 1)
    return np.asarray(np.where(outside, soft, 1.0), np.float32)


def grabcut(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W) alpha, its edge a pixel soft."""
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, 384 / max(height, width))  # its time grows with the pixels, its result does not
    small = np.ascontiguousarray(
        np.asarray(Image.fromarray(pixels[..., :3]).resize((round(width * scale), round(height * scale))))[..., ::-1]
    )
    h, w = small.shape[:2]
    mask = np.full((h, w), cv2.GC_PR_BGD, np.uint8)
    y, x = np.mgrid[:h, :w]
    mask[((x / w - 0.5) / 0.42) ** 2 + ((y / h - 0.5) / 0.42) ** 2 < 1] = cv2.GC_PR_FGD
    edge = max(1, round(0.02 * max(h, w)))
    mask[:edge] = mask[-edge:] = cv2.GC_BGD
    mask[:, :edge] = mask[:, -edge:] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small, mask, None, *models, 6, cv2.GC_INIT_WITH_MASK)  # pyright: ignore
    found = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    soft = ndimage.gaussian_filter(found, 0.7)
    large = Image.fromarray(soft).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(np.clip(np.asarray(large), 0, 1), np.float32)


def rembg(pixels: NDArray[np.uint8], model: Path | None) -> NDArray[np.float32]:
    """(H, W) alpha by rembg's U2-Net, or by another ONNX file of that kind at `model`."""
    try:
        from rembg import new_session, remove  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise MissingError(
            "rembg is not installed; run `pip install '.[rembg]'` in Polymode's folder, or take another --background."
        ) from e
    if model is not None and not model.is_file():
        raise UsageError(f"The matting model {model} does not exist; give an ONNX file with --rembg-model.")
    try:
        session = new_session("u2net") if model is None else new_session("u2net_custom", model_path=str(model))
        mask = remove(Image.fromarray(pixels[..., :3]), session=session, only_mask=True)
    except Exception as e:  # whatever onnxruntime or the download raises
        raise MissingError(
            f"rembg has no model to run ({type(e).__name__}); give a local ONNX file with --rembg-model."
        ) from e
    return np.asarray(np.asarray(mask) / 255, np.float32)


def without_specks(alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """Alpha without loose parts that are small beside the largest."""
    labels, count = ndimage.label(alpha > 0.5)  # pyright: ignore[reportGeneralTypeIssues]
    if count < 2:
        return alpha
    sizes = np.bincount(labels.ravel())[1:]
    keep = np.flatnonzero(sizes >= PART * sizes.max()) + 1
    near = ndimage.binary_dilation(np.isin(labels, keep), iterations=2)  # with their soft edges
    return np.asarray(np.where(near, alpha, 0), np.float32)


def frame(rgb: NDArray[np.uint8], alpha: NDArray[np.float32], how: str) -> Cutout:
    """The cut-out of colours (H, W, 3) and alpha (H, W) that is above one half somewhere."""
    y, x = np.nonzero(alpha > 0.5)
    top, bottom, left, right = y.min(), y.max() + 1, x.min(), x.max() + 1
    height, width = alpha.shape
    cropped = how != "none" and bool(top == 0 or left == 0 or bottom == height or right == width)
    half = max(bottom - top, right - left) / 2 / FILL
    centre = (left + right) / 2, (top + bottom) / 2
    box = (centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)
    premultiplied = np.concatenate([rgb / 255.0 * alpha[..., None], alpha[..., None]], 2).astype(np.float32)
    channels = [
        Image.fromarray(np.ascontiguousarray(premultiplied[..., k])).transform(
            (SIDE, SIDE), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR
        )
        if 2 * half <= SIDE
        else _shrunk(premultiplied[..., k], box)
        for k in range(4)
    ]
    out = torch.from_numpy(np.stack([np.asarray(c, np.float32) for c in channels])).clamp(0, 1)
    color = out[:3] / out[3:].clamp(min=1e-3)
    return Cutout(torch.cat([color.clamp(0, 1) * (out[3:] > 0), out[3:]]), how, cropped)


def _shrunk(values: NDArray[np.float32], box: tuple[float, float, float, float]) -> Image.Image:
    """A window of `values`, nothing around them, made smaller without aliasing."""
    pad = int(max(0, -min(box), box[2] - values.shape[1], box[3] - values.shape[0])) + 2
    wide = Image.fromarray(np.pad(values, pad))
    return wide.resize((SIDE, SIDE), Image.Resampling.BOX, box=tuple(b + pad for b in box))  # pyright: ignore


def without_fringe(rgb: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours (H, W, 3) whose edge pixels, which mix in the background, have the nearest inner pixel's."""
    inner = np.asarray(ndimage.binary_erosion(alpha >= SOLID, iterations=2), bool)
    if not inner.any():
        return rgb
    index = ndimage.distance_transform_edt(~inner, return_distances=False, return_indices=True)
    y, x = np.asarray(index)
    near = rgb[y, x]
    mixed = (alpha > 0) & ~inner
    # thin parts are far from any inner pixel: they keep what they have
    close = np.hypot(y - np.arange(len(rgb))[:, None], x - np.arange(rgb.shape[1])[None]) <= 4
    return np.where((mixed & close)[..., None], near, rgb)


def _distance(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(H, W) CIELAB distance to the background: a linear function of the place, fitted to the border's pixels; twice,
    the second time without those that are far from the first fit (the object may reach the border)."""
    lab = _lab(pixels)
    height, width = lab.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width)
    basis = np.stack([np.ones_like(x), x, y], 2)
    rows, values = _border(basis), _border(lab)
    keep = np.linalg.norm(values - np.median(values, 0), axis=1) < 2.5 * KEY_FAR

    def fitted(keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        enough = keep if keep.sum() >= 8 else np.ones_like(keep)
        return np.linalg.lstsq(rows[enough], values[enough], rcond=None)[0]

    keep = np.linalg.norm(values - rows @ fitted(keep), axis=1) < KEY_FAR
    return np.linalg.norm(lab - basis @ fitted(keep), axis=2)


def _lab(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return rgb2lab(pixels[..., :3])


def _border(values: NDArray) -> NDArray:
    """(N, C): the outermost pixels."""
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
