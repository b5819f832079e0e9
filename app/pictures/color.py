"""A picture's colours in sRGB, by its ICC profile, or by primaries and a transfer curve.

    linear' = M_sRGB^-1 A M linear          M: primaries to CIE XYZ, A: Bradford's adaptation of the white

What a file says is believed in this order: code points of ITU H.273, an ICC profile, PNG's sRGB, gAMA and cHRM, EXIF's
R03 (Adobe RGB, DCF 2.0). A file that says nothing is sRGB.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

WHITE = (0.3127, 0.3290)  # D65
SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *WHITE)  # x, y of red, green, blue, white
ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *WHITE)
P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *WHITE)
REC2020 = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *WHITE)
PRIMARIES = {1: SRGB, 9: REC2020, 12: P3}  # of H.273
LINEAR, PQ, HLG = 8, 16, 18  # transfer curves of H.273; the others here are near enough to sRGB's
ADOBE_GAMMA = 563 / 256
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour spaces of profiles, and Pillow's modes
BAD_PROFILE = "Its colour profile cannot be used ({}), so its colours may be off."


def in_srgb(
    image: Image.Image, info: Mapping[Any, Any], points: tuple[int, int] | None, adobe: bool, notes: list[str]
) -> Image.Image:
    """RGB of an L, RGB or CMYK picture, RGBA of an LA or RGBA one. `info` as Pillow has it, `points` of H.273,
    `adobe`: EXIF says Adobe RGB. `notes` gets a sentence where the colours may be off."""
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    plain = image.convert({"LA": "L", "RGBA": "RGB"}[image.mode]) if alpha is not None else image
    rgb = _converted(plain, info, points, adobe, notes)
    if alpha is not None:
        rgb.putalpha(alpha)
    return rgb


def _converted(
    image: Image.Image, info: Mapping[Any, Any], points: tuple[int, int] | None, adobe: bool, notes: list[str]
) -> Image.Image:
    if points is not None and points[0] in PRIMARIES:
        if points[1] in (PQ, HLG):
            notes.append("It is an HDR picture, which is read as an ordinary one, so its brightness may be off.")
        return by_primaries(image, PRIMARIES[points[0]], 1.0 if points[1] == LINEAR else None)
    if profile := info.get("icc_profile"):
        return by_profile(image, profile, notes)
    if image.mode == "CMYK":
        notes.append("It is a CMYK picture without a colour profile, so its colours are approximate.")
    elif "srgb" not in info and ("gamma" in info or "chromaticity" in info):
        gamma = float(info.get("gamma", 0))
        gamma = gamma if 0.2 < gamma < 1.2 else 1 / 2.2
        primaries = tuple(info.get("chromaticity", ())[2:8]) + tuple(info.get("chromaticity", ())[:2])
        usable = len(primaries) == 8 and all(0 < v < 1 for v in primaries)
        near = abs(gamma * 2.2 - 1) < 0.03  # as sRGB's files say it
        return by_primaries(image, primaries if usable else SRGB, None if near else 1 / gamma)
    elif adobe and image.mode == "RGB":
        return by_primaries(image, ADOBE, ADOBE_GAMMA)
    return image.convert("RGB")


def by_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    """RGB by an ICC profile, relative colorimetric with black point compensation; as it stands, and a note, where the
    profile is broken or of another kind of colours."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = ImageCms.core.profile_frombytes(profile).xcolor_space.strip()
        mode = MODES[space]
        if mode != image.mode and (mode != "RGB" or image.mode != "L"):
            raise ValueError(f"{space} in {image.mode}")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        out = ImageCms.applyTransform(image.convert(mode), transform)
        assert out is not None
        return out
    except Exception as e:  # LittleCMS and Pillow raise many kinds
        why = str(e).splitlines()[0][:60] if str(e) else type(e).__name__
        notes.append(BAD_PROFILE.format(why))
        return image.convert("RGB")


def by_primaries(image: Image.Image, primaries: tuple[float, ...], gamma: float | None) -> Image.Image:
    """RGB of values with these primaries, encoded by the power 1/`gamma` (None: by sRGB's curve)."""
    rgb = image.convert("RGB")
    if primaries == SRGB and gamma is None:
        return rgb
    levels = np.arange(256) / 255
    linear = (_to_linear(levels) if gamma is None else levels**gamma)[np.asarray(rgb)]
    try:
        matrix = np.linalg.inv(_to_xyz(SRGB)) @ _adaptation(primaries[6:], WHITE) @ _to_xyz(primaries)
    except np.linalg.LinAlgError:
        return rgb
    out = (linear @ matrix.T).clip(0, 1)
    encoded = np.where(out <= 0.0031308, 12.92 * out, 1.055 * np.maximum(out, 0.0031308) ** (1 / 2.4) - 0.055)
    return Image.fromarray((encoded * 255 + 0.5).astype(np.uint8))


def _to_linear(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _white(x: float, y: float) -> NDArray[np.float64]:
    return np.array([x / y, 1, (1 - x - y) / y])


def _to_xyz(primaries: tuple[float, ...]) -> NDArray[np.float64]:
    """(3, 3): linear red, green and blue to XYZ, white to Y = 1."""
    columns = np.stack([_white(*primaries[k : k + 2]) for k in (0, 2, 4)], 1)
    return columns * np.linalg.solve(columns, _white(*primaries[6:]))


def _adaptation(source: tuple[float, ...], target: tuple[float, ...]) -> NDArray[np.float64]:
    """(3, 3): XYZ under one white to XYZ under another, by Bradford's cones."""
    scale = (BRADFORD @ _white(*target)) / (BRADFORD @ _white(*source))
    return np.linalg.inv(BRADFORD) @ (scale[:, None] * BRADFORD)
