"""Picture files as containers: their chunks or segments, so that damaged metadata can be left out and what Pillow does
not tell of colour can be found.

    PNG    length, name, data, CRC                W3C Portable Network Graphics, section 5
    JPEG   FF, marker, length, data, up to FF DA  ITU T.81, annex B
    WebP   RIFF: name, length, data               RFC 9649
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF = {b"avif", b"avis"}
SCAN = 0xDA
FEW, NONE = 0, 1  # what of the metadata `without` leaves: what bears on the picture, nothing
PNG_KEPT = ((b"tRNS", b"iCCP", b"eXIf", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"acTL", b"fcTL", b"fdAT"), (b"tRNS",))
JPEG_KEPT = ((0xE0, 0xE1, 0xE2, 0xEE), (0xE0, 0xEE))  # JFIF, EXIF, ICC, Adobe's colour transform


def kind(data: bytes) -> str:
    """PNG, JPEG, WEBP, AVIF, HEIC, or "" for anything else; by the first bytes."""
    if data.startswith(PNG):
        return "PNG"
    if data.startswith(JPEG):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brands = {data[8:12], *(data[k : k + 4] for k in range(16, min(64, int.from_bytes(data[:4], "big")), 4))}
        return "AVIF" if brands & AVIF else "HEIC" if brands & HEIC else ""
    return ""


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(name, data, the chunk as it stands) of each whole chunk."""
    at = len(PNG)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size], data[at : at + 12 + size]
        at += 12 + size


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, segment) up to the scan, which is the last, with all that follows it."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        size = len(data) if marker == SCAN else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, data[at : at + size]
        at += size


def without(data: bytes, left: int) -> bytes:
    """A PNG or JPEG without metadata that is damaged or bears not on the picture (FEW), or without any (NONE). Other
    files stay as they are."""
    if data.startswith(PNG):
        out = [PNG]
        for name, body, chunk in png_chunks(data):
            critical = name[:1].isupper()
            sound = chunk[-4:] == struct.pack(">I", zlib.crc32(name + body))
            if critical or (sound and name in PNG_KEPT[left]):
                out.append(chunk)
        return b"".join(out)
    if data.startswith(JPEG):
        segments = jpeg_segments(data)
        return JPEG + b"".join(s for m, s in segments if _kept(m, s, left))
    return data


def _kept(marker: int, segment: bytes, left: int) -> bool:
    if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
        return True
    return marker in JPEG_KEPT[left] and segment[4:8] != b"MPF\0"


def code_points(data: bytes) -> tuple[int, int] | None:
    """(primaries, transfer) by ITU H.273, of a PNG (cICP), AVIF or HEIC file (colr nclx); None where it has none."""
    if data.startswith(PNG):
        for name, body, _ in png_chunks(data):
            if name == b"IDAT":
                return None
            if name == b"cICP" and len(body) == 4:
                return body[0], body[1]
    elif kind(data) in ("AVIF", "HEIC") and (at := data.find(b"colrnclx", 0, 65536)) >= 0:
        return int.from_bytes(data[at + 8 : at + 10], "big"), int.from_bytes(data[at + 10 : at + 12], "big")
    return None
