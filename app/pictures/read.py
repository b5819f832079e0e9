"""Reading a user's picture: PNG, JPEG or WebP, of any mode, into 8-bit RGBA.

Refused in one sentence: what is no such file, truncated, animated, larger than MAX_PIXELS (judged by the header,
before anything is decoded) or smaller than MIN_SIDE.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from app.errors import UsageError

MAX_PIXELS = 64_000_000
MAX_BYTES = 100_000_000
MIN_SIDE = 16
WORK = 1024  # pixels of the longer side that are worked with
FORMATS = ("PNG", "JPEG", "WEBP")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """(H, W, 4) straight-alpha RGBA, turned as its EXIF orientation says, at most 1024 pixels long. UsageError for
    anything that is not a picture of one object at all."""
    try:
        size = path.stat().st_size
    except OSError as e:
        raise UsageError(f"The picture {path} cannot be read ({e.strerror}); give a PNG, JPEG or WebP file.") from e
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a PNG, JPEG or WebP file.")
    if size > MAX_BYTES:
        raise UsageError(f"The picture {path} has {size / 1e6:.0f} MB; the limit is 100 MB, so save a smaller copy.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have a limit of our own, below
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as e:
        raise UsageError(f"The picture {path} is too large to open ({e}); save a smaller copy.") from e
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as e:
        raise UsageError(f"{path} is not a PNG, JPEG or WebP picture; convert it to one of these.") from e
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UsageError(
                f"The picture {path} has {width} x {height} pixels; the limit is {MAX_PIXELS // 1_000_000} million, "
                "so save a smaller copy."
            )
        if min(width, height) < MIN_SIDE:
            raise UsageError(f"The picture {path} is only {width} x {height} pixels; give a larger one.")
        if getattr(image, "n_frames", 1) > 1:
            raise UsageError(f"The picture {path} is animated; give a single still picture.")
        try:
            image.load()
            image = ImageOps.exif_transpose(image)
            rgba = _to_rgba(image)
        except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as e:
            raise UsageError(
                f"The picture {path} is truncated or damaged ({str(e).splitlines()[0][:80]}); save it again."
            ) from e
    scale = WORK / max(rgba.size)
    if scale < 1:
        smaller = (max(1, round(rgba.width * scale)), max(1, round(rgba.height * scale)))
        # premultiplied, so that what lies under transparent pixels does not bleed in
        rgba = rgba.convert("RGBa").resize(smaller, Image.Resampling.LANCZOS).convert("RGBA")
    return np.asarray(rgba)


def _to_rgba(image: Image.Image) -> Image.Image:
    """8 bits, four channels. 16-bit and floating-point grey are scaled by their range, CMYK is converted."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        if image.mode == "F":
            values = values - values.min()
            top = max(values.max(), 1e-9)
        else:
            top = 65535.0 if values.max() > 255 else 255.0
        grey = np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGBA")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGB").convert("RGBA")
    return image.convert("RGBA")
