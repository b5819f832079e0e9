"""Cutting the object out of a picture, and framing it by its silhouette.

    alpha     the picture's own transparency, but for stray specks; a see-through object counts as solid
    key       a background of one colour, or of a straight gradient fitted to the border (app/pictures/key.py)
    grabcut   by colour, from a guess that the object is in the middle (app/pictures/grabcut.py)
    rembg     a neural matting model (extra `rembg`; `rembg_model` a local ONNX file)
    none      the whole picture is the object
    auto      alpha where there is transparency, and not only in the corners; key where the border has one colour;
              grabcut otherwise

A cut-out is square; the silhouette's bounding box is in its middle and its larger half-extent FILL of half its side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from app.errors import MissingError, UsageError
from app.pictures.alpha import filled, is_rectangle, solidified
from app.pictures.grabcut import grabcut
from app.pictures.key import is_plain, key
from app.pictures.masks import nearest, worn
from app.pictures.parts import SHEET, things, without_loose
from app.pictures.pose import FILL

SIDE = 512
TRANSPARENT = 0.01  # share of pixels that must be see-through for alpha to mean something
SOLID = 0.95  # alpha of pixels without background in them
SMALLEST, LARGEST = 0.003, 0.97  # share of the picture that an object may cover
LOOSE = {"alpha": 0.001, "grabcut": 0.2}  # parts smaller than this share of the largest are left out
PART = 0.05  # the same, however else it is cut out; and from which on a part is worth a note
WITHIN = 0.7  # share of an opaque picture with transparent corners that the object in it may cover
HOLE = 0.01  # share of the object from which on an enclosed area is worth a note
LEAST = 8  # pixels of the object's longer side
THIN, THINNEST = 12, 30  # times as long as wide: five, and two, pixels in the prior's views


@dataclass(frozen=True)
class Cutout:
    """rgba (4, 512, 512) in [0, 1], straight alpha; `how`, what auto stood for; `cropped`: the object reaches the
    picture's edge, so a part of it is missing; `notes`: sentences about what was guessed, left out or cut."""

    rgba: Tensor
    how: str
    cropped: bool
    notes: tuple[str, ...] = ()


def cut_out(
    pixels: NDArray[np.uint8], background: str = "auto", rembg_model: Path | None = None, holes: str = "auto"
) -> Cutout:
    """Of a picture (H, W, 4); `holes` as in app/pictures/key.py. UsageError where no object is found, or many are,
    MissingError without the extra that was asked for."""
    if background == "none":
        return frame(pixels[..., :3], np.ones(pixels.shape[:2], np.float32), "none", [])
    pixels, notes = _solid(pixels)
    auto = background == "auto"
    how = choose(pixels) if auto else background
    if how == "alpha":
        return _by_alpha(pixels, auto, notes)
    corners = is_rectangle(pixels[..., 3])
    whole = filled(pixels) if corners or not _transparent(pixels) else pixels
    if not (auto and corners and _transparent(pixels)):
        return _from_opaque(whole, how, auto, rembg_model, holes, notes)
    try:
        inner = _from_opaque(whole, how, auto, rembg_model, holes, [*notes, WITHIN_CORNERS], WITHIN)
        if things(np.asarray(inner.rgba[3]), PART)[0] == 1:
            return inner
    except UsageError:
        pass  # nothing stands out in it
    return _by_alpha(pixels, auto, [*notes, WITH_CORNERS])


CORNERS = "It is transparent at its corners only"
WITHIN_CORNERS = f"{CORNERS}, so the object is looked for within; --background alpha takes it as a whole."
WITH_CORNERS = f"{CORNERS}, and taken for the object as a whole; --background key looks within."
SEE_THROUGH = "It is see-through wherever it shows anything; that is taken for solid."


def _solid(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], list[str]]:
    """The picture as if a see-through object in it were solid, and what to say of that."""
    alpha = solidified(np.asarray(pixels[..., 3] / 255, np.float32))
    if alpha is None:
        return pixels, []
    return np.dstack([pixels[..., :3], (alpha * 255 + 0.5).astype(np.uint8)]), [SEE_THROUGH]


def _transparent(pixels: NDArray[np.uint8]) -> bool:
    return bool((pixels[..., 3] < 128).mean() >= TRANSPARENT)


def choose(pixels: NDArray[np.uint8]) -> str:
    """What `auto` stands for in this picture."""
    if _transparent(pixels) and not is_rectangle(pixels[..., 3]):
        return "alpha"
    return "key" if is_plain(filled(pixels)) else "grabcut"


def _by_alpha(pixels: NDArray[np.uint8], auto: bool, notes: list[str]) -> Cutout:
    alpha = np.asarray(pixels[..., 3] / 255, np.float32)
    if alpha.min() > 0.5:
        raise UsageError("The picture has no transparency; use --background auto, key or grabcut.")
    if not (alpha > 0.5).any():
        raise UsageError("The picture is transparent everywhere; give one that shows an object.")
    alpha = _of_one(alpha, "alpha", auto, notes)
    return frame(pixels[..., :3], alpha, "alpha", notes)


def _from_opaque(
    pixels: NDArray[np.uint8],
    how: str,
    auto: bool,
    rembg_model: Path | None,
    holes: str,
    notes: list[str],
    largest: float = LARGEST,
) -> Cutout:
    """By what is seen in the picture, whatever its alpha. UsageError where what is found is no object."""
    if how == "key":
        keyed = key(pixels, holes)
        alpha = keyed.alpha
    else:
        keyed = None
        alpha = grabcut(pixels) if how == "grabcut" else rembg(pixels, rembg_model)
    share = float((alpha > 0.5).mean())
    if not SMALLEST <= share <= largest:
        raise UsageError(
            f"No object was found in the picture ({how} kept {_percent(share)} of it); crop it, choose another "
            "--background, or give a picture with a transparent background."
        )
    alpha = _of_one(alpha, how, auto, notes)
    if keyed is not None and keyed.cut:
        notes.append(
            f"Enclosed areas of the background's colour were cut out ({_percent(keyed.cut)} of the object); --holes "
            "keep keeps them."
        )
    if keyed is not None and keyed.kept > HOLE:
        notes.append(
            f"Enclosed areas like the background were kept ({_percent(keyed.kept)} of the object); --holes cut cuts "
            "them out."
        )
    return frame(without_fringe(pixels[..., :3], alpha), alpha, how, notes)


def _of_one(alpha: NDArray[np.float32], how: str, auto: bool, notes: list[str]) -> NDArray[np.float32]:
    """Alpha of one object. UsageError where there are many things and nobody chose how to cut them out."""
    loose = without_loose(alpha, LOOSE.get(how, PART))
    parts, alike = things(loose.alpha, PART)
    if auto and alike >= SHEET:
        raise UsageError(
            f"The picture shows {alike} separate things of like size; crop it to one, or choose --background {how} if "
            "they are parts of one object."
        )
    if loose.notable(how == "alpha"):
        notes.append(
            f"{loose.count} loose part{'s' * (loose.count > 1)} ({_percent(loose.share)} of the object) "
            f"{'were' if loose.count > 1 else 'was'} left out; choose another --background if that is wrong."
        )
    if parts > 1:
        notes.append(f"{parts} separate parts are taken for one object; crop the picture if they are not.")
    return loose.alpha


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


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


def frame(rgb: NDArray[np.uint8], alpha: NDArray[np.float32], how: str, notes: list[str]) -> Cutout:
    """The cut-out of colours (H, W, 3) and alpha (H, W) that is above one half somewhere. UsageError for an object
    that is too small, or too thin, to be seen."""
    y, x = np.nonzero(alpha > 0.5)
    top, bottom, left, right = y.min(), y.max() + 1, x.min(), x.max() + 1
    short, long = sorted((int(bottom - top), int(right - left)))
    if long < LEAST:
        raise UsageError(f"The object in the picture is only {long} pixels long; crop the picture to it.")
    times = f"The object in the picture is {long / short:.0f} times as long as it is wide"
    if long > THINNEST * short:
        raise UsageError(f"{times}, too thin for the prior to see; crop it to a part.")
    if long > THIN * short:
        notes = [*notes, f"{times}; the prior sees little of what is so thin."]
    height, width = alpha.shape
    touched = [top == 0, left == 0, bottom == height, right == width]
    trimmed = how == "alpha" and all(touched)  # a cut-out saved without its margins
    cropped = how != "none" and any(touched) and not trimmed
    if cropped:
        notes = [*notes, "The object reaches the picture's edge, so a part of it is missing."]
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
    return Cutout(torch.cat([color.clamp(0, 1) * (out[3:] > 0), out[3:]]), how, cropped, tuple(notes))


def _shrunk(values: NDArray[np.float32], box: tuple[float, float, float, float]) -> Image.Image:
    """A window of `values`, nothing around them, made smaller without aliasing."""
    pad = int(max(0, -min(box), box[2] - values.shape[1], box[3] - values.shape[0])) + 2
    wide = Image.fromarray(np.pad(values, pad))
    return wide.resize((SIDE, SIDE), Image.Resampling.BOX, box=tuple(b + pad for b in box))  # pyright: ignore


def without_fringe(rgb: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours (H, W, 3) whose edge pixels, which mix in the background, have the nearest inner pixel's."""
    inner = worn(alpha >= SOLID, 2)
    if not inner.any():
        return rgb
    y, x = nearest(inner)
    near = rgb[y, x]
    mixed = (alpha > 0) & ~inner
    # thin parts are far from any inner pixel: they keep what they have
    close = np.hypot(y - np.arange(len(rgb))[:, None], x - np.arange(rgb.shape[1])[None]) <= 4
    return np.where((mixed & close)[..., None], near, rgb)
