"""Pictures drawn in code that are odd as files, or hard to cut out; and colour profiles."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.color import rgb2lab

Color = tuple[int, int, int]
CAP, STEM, WHITE = (200, 40, 30), (240, 225, 190), (255, 255, 255)


def toadstool(ground: Color = WHITE, cap: Color = CAP, size: tuple[int, int] = (256, 256)) -> Image.Image:
    """Red, on an opaque ground, 140 pixels wide and 160 high, its middle at (128, 130)."""
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    draw.pieslice((58, 50, 198, 190), 180, 360, fill=cap)
    draw.rectangle((108, 120, 148, 210), fill=STEM)
    return image


def cut(image: Image.Image, level: int = 255) -> Image.Image:
    """With a transparent ground, and alpha `level` where the picture is not white."""
    away = np.abs(np.asarray(image.convert("RGB"), int) - 255).max(2) > 8
    out = image.convert("RGB")
    out.putalpha(Image.fromarray((away * level).astype(np.uint8)))
    return out


def mug(ground: Color = WHITE, scale: int = 4) -> Image.Image:
    """Red, with a handle through which the ground is seen."""
    image = Image.new("RGB", (256 * scale, 256 * scale), ground)
    draw = ImageDraw.Draw(image)
    for box, color in (((140, 90, 225, 185), (190, 30, 30)), ((158, 108, 207, 167), ground)):
        draw.ellipse([v * scale for v in box], fill=color)
    draw.rounded_rectangle([v * scale for v in (50, 60, 170, 210)], 18 * scale, fill=(190, 30, 30))
    return image.resize((256, 256), Image.Resampling.LANCZOS)


def face() -> Image.Image:
    """Yellow, on white, with white eyes that have pupils."""
    image = Image.new("RGB", (256, 256), WHITE)
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 40, 216, 216), fill=(240, 190, 40))
    for x in (95, 161):
        draw.ellipse((x - 24, 85, x + 24, 140), fill=WHITE)
        draw.ellipse((x - 9, 100, x + 9, 125), fill=(10, 10, 10))
    return image


def rounded(image: Image.Image, radius: int, margin: int = 0) -> Image.Image:
    """Transparent at its corners, as an icon."""
    width, height = image.size
    mask = Image.new("L", (4 * width, 4 * height))
    box = (4 * margin, 4 * margin, 4 * (width - margin) - 1, 4 * (height - margin) - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, 4 * radius, fill=255)
    out = image.convert("RGB")
    out.putalpha(mask.resize(image.size, Image.Resampling.LANCZOS))
    return out


def sheet(rows: int, ground: Color | None = WHITE) -> Image.Image:
    """rows x rows discs, of many colours, on an opaque ground or on a transparent one."""
    image = Image.new("RGBA", (256, 256), (0, 0, 0, 0) if ground is None else (*ground, 255))
    side = 256 // rows
    for k in range(rows * rows):
        x, y = k % rows * side, k // rows * side
        color = (200 - 9 * k, 30 + 9 * k, 60, 255)
        ImageDraw.Draw(image).ellipse(
            (x + side // 6, y + side // 6, x + side - side // 6, y + side - side // 6), color
        )
    return image


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGBA"))


def exif(*tags: tuple[int, int, int, bytes]) -> bytes:
    """A big-endian EXIF block of (tag, type, count, value) as they are given, sensible or not."""
    at, entries, values = 8 + 2 + 12 * len(tags) + 4, b"", b""
    for tag, kind, count, value in tags:
        inside = len(value) <= 4
        entries += struct.pack(">HHI", tag, kind, count)
        entries += value.ljust(4, b"\0") if inside else struct.pack(">I", at + len(values))
        values += b"" if inside else value
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + b"\0\0\0\0" + values


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(path: Path, chunk: bytes) -> None:
    """Put a chunk after a PNG's header."""
    data = path.read_bytes()
    path.write_bytes(data[:33] + chunk + data[33:])


# colour profiles, ICC.1:2001-04

D50 = (0.9642, 1.0, 0.8249)
P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290)
ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.3290)
PROPHOTO = (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001, 0.3457, 0.3585)
CONES = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def _fixed(values: tuple[float, ...] | NDArray[np.float64]) -> bytes:
    return b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = [(b"desc", name + bytes(-len(name) % 4)), (b"wtpt", b"XYZ \0\0\0\0" + _fixed(D50)), *tags]
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, value in tags:
        table += tag + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = bytearray(128)
    head[:4] = struct.pack(">I", 128 + len(table) + len(body))
    head[8:12], head[12:24], head[36:40], head[68:80] = b"\x02\x10\0\0", kind + space + pcs, b"acsp", _fixed(D50)
    return bytes(head) + table + body


def rgb_profile(primaries: tuple[float, ...], gamma: float) -> bytes:
    """Of x, y of red, green, blue and white."""

    def xyz(x: float, y: float) -> NDArray[np.float64]:
        return np.array([x / y, 1, (1 - x - y) / y])

    columns = np.stack([xyz(*primaries[k : k + 2]) for k in (0, 2, 4)], 1)
    white = xyz(*primaries[6:])
    adapted = np.linalg.inv(CONES) @ np.diag((CONES @ D50) / (CONES @ white)) @ CONES
    matrix = adapted @ (columns * np.linalg.solve(columns, white))
    tags = [(b"%cXYZ" % c, b"XYZ \0\0\0\0" + _fixed(matrix[:, k])) for k, c in enumerate(b"rgb")]
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags + [(b"%cTRC" % c, _curve(gamma)) for c in b"rgb"])


def grey_profile(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", [(b"kTRC", _curve(gamma))])


def cmyk_profile(inks: tuple[Color, Color, Color]) -> bytes:
    """Of a press whose first three inks, printed alone, have these colours; over one another they multiply."""
    grid = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(-1, 4)  # the last ink runs fastest
    paper = np.ones((16, 3))
    for k, ink in enumerate((*inks, (0, 0, 0))):
        paper *= np.where(grid[:, k : k + 1] == 1, np.array(ink) / 255, 1)
    lab = rgb2lab(paper[None])[0]
    corners = np.stack([lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128], 1).clip(0, 255).round().astype(np.uint8)
    same = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + _fixed(np.eye(3).ravel()) + same * 4 + corners.tobytes() + same * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", [(b"A2B0", lut)])
