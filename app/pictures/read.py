"""Reading a user's picture into 8-bit RGBA in sRGB: PNG, JPEG, WebP, AVIF, and HEIC with the extra `heif`.

Only what is drawn can refuse a picture: metadata that cannot be read are left out, and a note says what that may cost.
Refused in one sentence: what is no such file, truncated, animated, larger than MAX_PIXELS (judged by the header,
before anything is decoded), smaller than MIN_SIDE or a mere line.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from app.errors import MissingError, UsageError
from app.pictures import metadata
from app.pictures.color import in_srgb

MAX_PIXELS = 64_000_000
MAX_BYTES = 100_000_000
MIN_SIDE = 16
WORK = 1024  # pixels of the longer side that are worked with
SHORT, LONG = 128, 4096  # a thin picture keeps so many of its shorter side, if its longer is no more than this
KINDS, MORE = "PNG, JPEG or WebP", "AVIF or HEIC"  # what anybody can write, and what is read besides
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".heic", ".heif")
ORIENTATION, INTEROPERABILITY, INDEX = 0x0112, 0xA005, 1  # tags of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(path: Path, notes: list[str] | None = None) -> NDArray[np.uint8]:
    """(H, W, 4) straight-alpha RGBA in sRGB, turned as its EXIF orientation says, at most 1024 pixels long unless it
    is thin. `notes` gets a sentence for whatever of the file could not be heeded. UsageError for anything that is no
    still picture of a sane size, MissingError without what its format needs."""
    notes = [] if notes is None else notes
    data = _bytes(path)
    formats = _formats(path, metadata.kind(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata, and of large pictures: we have a limit of our own
        image = _decoded(path, data, formats, notes)
        turn, adobe = _exif(image, notes)
        colors = _eight_bits(image)
        colors = colors.transpose(TURNS[turn]) if turn in TURNS else colors
        colors = _shrunk(path, colors)
        # PNG's code points go before its profile; in AVIF and HEIC they are there for want of one
        points = None if "icc_profile" in image.info and image.format != "PNG" else metadata.code_points(data)
        return np.asarray(in_srgb(colors, image.info, points, adobe, notes).convert("RGBA"))


def _bytes(path: Path) -> bytes:
    """Of a plain file of a sane size."""
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give a {KINDS} file.")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is no plain file; give a {KINDS} file.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UsageError(
                f"The picture {path} has {size / 1e6:.0f} MB; the limit is 100 MB, so save a smaller copy."
            )
        return path.read_bytes()
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or str(e)
        raise UsageError(f"The picture {path} cannot be read ({why}); give a {KINDS} file.") from e


def _formats(path: Path, kind: str) -> tuple[str, ...]:
    """The decoders that may open a file of this kind."""
    if not kind:
        raise UsageError(f"{path} is not a {KINDS} picture, nor {MORE}; convert it to one of these.")
    if kind == "AVIF" and features.check("avif"):
        return ("AVIF",)
    if kind in ("AVIF", "HEIC"):
        try:
            from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
        except ImportError as e:
            raise MissingError(
                f"{path} is a picture of the kind {kind}, which this installation cannot read; run "
                "`pip install pillow-heif`, or save it as PNG or JPEG."
            ) from e
        register_heif_opener()
        return ("HEIF",)
    return (kind,)


def _versions(data: bytes) -> Iterator[tuple[bytes, str]]:
    """The file, and where it cannot be decoded, the file without some, and all, of its metadata."""
    yield data, ""
    less = metadata.without(data, metadata.FEW)
    if less != data:
        yield less, "Some of its metadata are damaged and were left out."
    least = metadata.without(data, metadata.NONE)
    if least not in (data, less):
        yield (
            least,
            "Its metadata are damaged and were left out, so it may lie on its side and its colours may be off.",
        )


def _decoded(path: Path, data: bytes, formats: tuple[str, ...], notes: list[str]) -> Image.Image:
    """The first still picture, decoded."""
    first: Exception | None = None
    for version, note in _versions(data):
        try:
            image = Image.open(io.BytesIO(version), formats=formats)
            _judge(path, image)
            image.load()
        except UsageError:
            raise
        except Image.DecompressionBombError as e:
            raise UsageError(f"The picture {path} is too large to open ({e}); save a smaller copy.") from e
        except MemoryError as e:
            raise UsageError(f"The picture {path} does not fit into memory; save a smaller copy.") from e
        except Exception as e:  # a decoder raises whatever its library does
            first = first or e
            continue
        if note:
            notes.append(note)
        if (count := getattr(image, "n_frames", 1)) > 1:
            notes.append(f"The file holds {count} pictures, of which the first is used.")
        return image
    why = (str(first).splitlines() or [""])[0][:80] or type(first).__name__
    why = f"its {formats[0]} header" if isinstance(first, UnidentifiedImageError) else why
    raise UsageError(
        f"The picture {path} is a truncated or damaged {formats[0]} file ({why}); save it again."
    ) from first


def _judge(path: Path, image: Image.Image) -> None:
    """UsageError for what is no still picture of a sane size, before it is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UsageError(
            f"The picture {path} has {width} x {height} pixels; the limit is {MAX_PIXELS // 1_000_000} million, so "
            "save a smaller copy."
        )
    if min(width, height) < MIN_SIDE:
        raise UsageError(f"The picture {path} is only {width} x {height} pixels; give a larger one.")
    # a phone's multi-picture is a still picture and others that go with it
    if getattr(image, "n_frames", 1) > 1 and image.format not in ("MPO", "HEIF"):
        raise UsageError(f"The picture {path} is animated; give a single still picture.")


def _exif(image: Image.Image, notes: list[str]) -> tuple[int, bool]:
    """(orientation, whether it says Adobe RGB). Only these tags are read, and nothing is written back: other tags may
    be nonsense."""
    try:
        if raw := image.info.get("exif"):
            Image.Exif().load(raw)  # Pillow's own, made when a JPEG is opened, is silent about a broken header
        exif = image.getexif()
        turn = int(exif.get(ORIENTATION, 1))
    except Exception:  # TIFF's many ways of being broken
        notes.append("Its EXIF data cannot be read, so it may lie on its side.")
        return 1, False
    try:
        return turn, str(exif.get_ifd(INTEROPERABILITY).get(INDEX, "")).startswith("R03")
    except Exception:
        return turn, False


def _eight_bits(image: Image.Image) -> Image.Image:
    """L, LA, RGB, RGBA or CMYK. 16-bit grey is scaled."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.asarray(image, np.int64)
        grey = Image.fromarray((values.clip(0, 65535) / 257 + 0.5).astype(np.uint8))
        if isinstance(clear, int):
            grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return grey
    if image.mode in ("L", "1") and clear is None:
        return image.convert("L")
    if image.mode in ("LA", "CMYK", "RGBA") or (image.mode == "RGB" and clear is None):
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _shrunk(path: Path, image: Image.Image) -> Image.Image:
    """At most WORK pixels long; a thin picture keeps more. Premultiplied by Pillow, so that what lies under
    transparent pixels does not bleed in."""
    short, long = sorted(image.size)
    scale = min(1.0, max(WORK / long, min(SHORT / short, LONG / long)))
    if short * scale < MIN_SIDE:
        raise UsageError(
            f"The picture {path} has {image.width} x {image.height} pixels, too thin to show an object; crop it."
        )
    if scale == 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
