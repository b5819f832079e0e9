"""Pictures as files: odd metadata, colour profiles, several pictures in one file, AVIF and HEIC, extreme shapes."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from app.errors import MissingError, UsageError
from app.pictures.color import by_primaries
from app.pictures.metadata import code_points, kind, without
from app.pictures.read import TURNS, read_picture
from tests import drawn
from tests.drawn import ADOBE, CAP, P3, PROPHOTO, exif, png_chunk, toadstool, with_chunk

ODD = (
    (0x010F, 7, 3, b"\xff\xfe\xfd"),  # a maker of no text
    (0x011A, 10, 1, struct.pack(">ii", -72, 1)),  # a negative resolution
    (0x011B, 5, 1, struct.pack(">II", 1, 0)),  # an infinite one
    (0x0131, 12, 1, struct.pack(">d", 1e300)),  # a software that is a number
    (0x0132, 9, 1, struct.pack(">i", -1)),  # a date as well
)


def near(found: np.ndarray, wanted: tuple[int, ...], most: int = 3) -> bool:
    return bool(np.abs(found[..., : len(wanted)].astype(int) - wanted).max() <= most)


def directory(tag: int, kind: int, value: int | bytes) -> bytes:
    """An EXIF directory of one entry, 18 bytes."""
    value = value if isinstance(value, bytes) else struct.pack(">I", value)
    return struct.pack(">HHHI", 1, tag, kind, len(value) if kind == 2 else 1) + value + bytes(4)


def oriented(turn: int) -> bytes:
    return exif(*sorted([(0x0112, 3, 1, struct.pack(">H", turn)), *ODD]))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_an_orientation_is_obeyed_beside_nonsense(tmp_path: Path, name: str, turn: int) -> None:
    image = Image.new("RGB", (48, 32), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 16, 16))
    image.save(tmp_path / name, exif=oriented(turn), quality=95)
    # (right, below): where the first row and column are, EXIF 2.3 4.6.4
    right, below = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}[turn]
    notes: list[str] = []
    pixels = read_picture(tmp_path / name, notes)
    assert pixels.shape[:2] == ((48, 32) if turn > 4 else (32, 48)) and notes == []
    corners = pixels[[8, -8]][:, [8, -8], 0]
    assert int(corners[below, right]) < 20 and int(corners.sum()) > 3 * 250
    assert set(TURNS) == set(range(2, 9))


def test_a_broken_metadata_block_costs_a_note_and_no_picture(tmp_path: Path) -> None:
    image = toadstool()
    wanted = np.asarray(image)
    for name in ("a.jpg", "a.png", "a.webp"):
        image.save(tmp_path / name, exif=b"Exif\0\0XX\0\0 no TIFF", quality=95, lossless=True)
        notes: list[str] = []
        assert near(read_picture(tmp_path / name, notes)[90, 128], CAP)
        assert len(notes) == 1 and "EXIF" in notes[0] and notes[0].endswith("."), name
    # chunks whose check sums are wrong, or whose content no decoder likes
    for k, chunk in enumerate(
        (
            png_chunk(b"tEXt", b"Comment\0hello")[:-4] + b"\0\0\0\0",
            png_chunk(b"gAMA", b"\0\0\xb1\x8f")[:-1] + b"\0",
            png_chunk(b"eXIf", oriented(6)[6:])[:-4] + b"\1\1\1\1",
            png_chunk(b"iCCP", b"name\0\7not deflated"),
            png_chunk(b"pHYs", b"\0"),
            png_chunk(b"zTXt", b"a\0\7nothing"),
        )
    ):
        path = tmp_path / f"{k}.png"
        image.save(path)
        with_chunk(path, chunk)
        notes = []
        assert (read_picture(path, notes)[..., :3] == wanted).all() and len(notes) <= 1
        assert all(n.startswith("Some of its metadata") or "its metadata" in n.lower() for n in notes), notes
    assert without(b"GIF89a", 0) == b"GIF89a"


def test_every_cut_of_a_file_is_refused_or_whole(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp"):
        path = tmp_path / name
        toadstool(size=(256, 256)).resize((64, 64)).save(path, exif=oriented(1))
        data, whole = path.read_bytes(), read_picture(path)
        refused = 0
        for n in range(0, len(data) - 1, 37):
            path.write_bytes(data[:n])
            try:
                assert (read_picture(path) == whole).all()
            except UsageError as e:
                refused += 1
                assert "\n" not in str(e) and str(e).endswith(".") and "0x" not in str(e)
        assert refused >= 0.8 * len(range(0, len(data) - 1, 37)), name


def test_a_phones_multi_picture_is_its_first(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    toadstool().save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))], quality=95)
    notes: list[str] = []
    pixels = read_picture(path, notes)
    assert pixels.shape[:2] == (256, 256) and near(pixels[90, 128], CAP)
    assert notes == ["The file holds 2 pictures, of which the first is used."]
    data = bytearray(path.read_bytes())
    at = data.index(b"MPF\0") + 4
    data[at : at + 40] = b"\xff" * 40  # an index that is nonsense
    path.write_bytes(data)
    assert near(read_picture(path)[90, 128], CAP)


# what pure sRGB red, (255, 0, 0), is in other spaces
REDS = (
    (P3, 2.2, (234, 51, 35)),
    (ADOBE, 563 / 256, (219, 0, 0)),
    (PROPHOTO, 1.8, (179, 70, 26)),
)


@pytest.mark.parametrize(("primaries", "gamma", "red"), REDS)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "alpha.png", "palette.png"])
def test_profiles_become_srgb(
    tmp_path: Path, name: str, primaries: tuple[float, ...], gamma: float, red: tuple[int, int, int]
) -> None:
    image = toadstool(cap=red)
    image = drawn.cut(image) if name == "alpha.png" else image.quantize(16) if name == "palette.png" else image
    image.save(tmp_path / name, icc_profile=drawn.rgb_profile(primaries, gamma), quality=100, subsampling=0)
    notes: list[str] = []
    pixels = read_picture(tmp_path / name, notes)
    assert near(pixels[90, 128], (255, 0, 0), 14 if name == "a.webp" else 8) and notes == [], pixels[90, 128]
    assert near(pixels[10, 10, :3], (255, 255, 255)) and pixels[10, 10, 3] == (0 if name == "alpha.png" else 255)


def test_grey_and_cmyk_profiles_become_srgb(tmp_path: Path) -> None:
    grey = Image.new("L", (64, 64), 128)
    grey.save(tmp_path / "grey.png", icc_profile=drawn.grey_profile(1.0))
    assert near(read_picture(tmp_path / "grey.png")[9, 9], (188, 188, 188)), "linear grey"
    grey.save(tmp_path / "rgb.png", icc_profile=drawn.rgb_profile(P3, 1.0))
    assert near(read_picture(tmp_path / "rgb.png")[9, 9], (188, 188, 188)), "grey with a profile of RGB"
    inks = ((30, 160, 60), (200, 40, 30), (250, 220, 0))  # the first is no cyan
    image = Image.new("CMYK", (64, 64), (0, 255, 0, 0))
    image.paste((255, 0, 0, 0), (0, 0, 32, 64))
    image.save(tmp_path / "cmyk.jpg", icc_profile=drawn.cmyk_profile(inks), quality=100)
    notes: list[str] = []
    pixels = read_picture(tmp_path / "cmyk.jpg", notes)
    assert near(pixels[32, 10], inks[0], 35) and near(pixels[32, 54], inks[1], 35) and notes == []
    image.save(tmp_path / "plain.jpg", quality=100)
    plain = read_picture(tmp_path / "plain.jpg", notes)
    assert near(plain[32, 10], (0, 255, 255), 6) and len(notes) == 1 and "CMYK" in notes[0]


def test_profiles_that_are_broken_or_do_not_fit_are_said(tmp_path: Path) -> None:
    for k, profile in enumerate((b"nonsense" * 30, drawn.cmyk_profile((CAP, CAP, CAP)), drawn.grey_profile(2.2))):
        toadstool().save(tmp_path / f"{k}.png", icc_profile=profile)
        notes: list[str] = []
        assert near(read_picture(tmp_path / f"{k}.png", notes)[90, 128], CAP, 0), "as it stands"
        assert len(notes) == 1 and "colour profile" in notes[0] and notes[0].endswith(".")


def test_colours_that_are_told_without_a_profile_become_srgb(tmp_path: Path) -> None:
    linear = PngImagePlugin.PngInfo()
    linear.add(b"gAMA", struct.pack(">I", 100_000))
    toadstool(cap=(128, 0, 128)).save(tmp_path / "linear.png", pnginfo=linear)
    assert near(read_picture(tmp_path / "linear.png")[90, 128], (188, 0, 188))
    usual = PngImagePlugin.PngInfo()
    usual.add(b"gAMA", struct.pack(">I", 45_455))
    toadstool().save(tmp_path / "usual.png", pnginfo=usual)
    assert near(read_picture(tmp_path / "usual.png")[90, 128], CAP, 0)
    wide = PngImagePlugin.PngInfo()
    wide.add(b"gAMA", struct.pack(">I", 45_455))
    wide.add(b"cHRM", struct.pack(">8I", *(round(v * 100_000) for v in (*P3[6:], *P3[:6]))))
    toadstool(cap=(234, 51, 35)).save(tmp_path / "wide.png", pnginfo=wide)
    assert near(read_picture(tmp_path / "wide.png")[90, 128], (255, 0, 0), 4)
    toadstool(cap=(234, 51, 35)).save(tmp_path / "points.png")
    with_chunk(tmp_path / "points.png", png_chunk(b"cICP", bytes((12, 13, 0, 1))))
    assert near(read_picture(tmp_path / "points.png")[90, 128], (255, 0, 0), 4), "H.273: Display P3"
    notes: list[str] = []
    toadstool().save(tmp_path / "hdr.png")
    with_chunk(tmp_path / "hdr.png", png_chunk(b"cICP", bytes((9, 16, 0, 1))))
    read_picture(tmp_path / "hdr.png", notes)
    assert len(notes) == 1 and "HDR" in notes[0]
    # three directories, one in the other: at 8, 26 and 44
    camera = (
        b"Exif\0\0MM\0*\0\0\0\x08" + directory(0x8769, 4, 26) + directory(0xA005, 4, 44) + directory(1, 2, b"R03\0")
    )
    toadstool(cap=(219, 0, 0)).save(tmp_path / "camera.jpg", exif=camera, quality=100, subsampling=0)
    assert near(read_picture(tmp_path / "camera.jpg")[90, 128], (255, 0, 0), 4), "DCF: Adobe RGB"
    everything = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    same = by_primaries(everything, (*P3[:6], *P3[6:]), None)
    assert np.abs(np.asarray(same, int) - np.asarray(everything, int)).max() > 20


def test_transparency_of_16_bit_grey_is_kept(tmp_path: Path) -> None:
    values = np.full((32, 32), 300, np.uint16)
    values[8:24, 8:24] = 40_000
    Image.fromarray(values).save(tmp_path / "a.png")
    with_chunk(tmp_path / "a.png", png_chunk(b"tRNS", struct.pack(">H", 300)))
    pixels = read_picture(tmp_path / "a.png")
    assert pixels[0, 0, 3] == 0 and pixels[16, 16].tolist() == [156, 156, 156, 255]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    toadstool(cap=(234, 51, 35)).save(tmp_path / "a.avif", icc_profile=drawn.rgb_profile(P3, 2.2), quality=95)
    assert near(read_picture(tmp_path / "a.avif")[90, 128], (255, 0, 0), 8)
    turned = Image.Exif()
    turned[0x0112] = 6
    drawn.cut(toadstool()).save(tmp_path / "b.avif", quality=95, exif=turned)
    pixels = read_picture(tmp_path / "b.avif")
    assert pixels[4, 4, 3] == 0 and near(pixels[128, -90], (*CAP, 255), 6), "turned"
    frames = [Image.new("RGB", (64, 64), (g, g, g)) for g in (0, 200)]
    frames[0].save(tmp_path / "c.avif", save_all=True, append_images=frames[1:])
    with pytest.raises(UsageError, match="animated"):
        read_picture(tmp_path / "c.avif")


def test_heic_is_an_extra(tmp_path: Path) -> None:
    path = tmp_path / "phone.heic"
    header = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    path.write_bytes(header + bytes(400))
    assert kind(header) == "HEIC" and kind(b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf") == "AVIF"
    assert code_points(header + b"colrnclx\0\x0c\0\x0d\0\6\x80") == (12, 13)
    if importlib.util.find_spec("pillow_heif") is None:
        with pytest.raises(MissingError, match=r"pip install pillow-heif.*PNG or JPEG\.$"):
            read_picture(path)
        return
    with pytest.raises(UsageError, match="damaged HEIF"):
        read_picture(path)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 2000), (60_000, 20), (15, 15)])
def test_what_shows_no_object_is_one_sentence(tmp_path: Path, width: int, height: int) -> None:
    Image.new("L", (width, height), 200).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"(only|too thin).*\.$"):
        read_picture(tmp_path / "a.png")


def test_a_thin_picture_keeps_its_shorter_side(tmp_path: Path) -> None:
    for size, wanted in (((4000, 40), (40, 4000)), ((3000, 600), (205, 1024)), ((300, 9000), (128, 3840))):
        Image.new("RGB", size).save(tmp_path / "a.png")
        assert read_picture(tmp_path / "a.png").shape[:2] in (wanted, wanted[::-1])


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match="no plain file"):
        read_picture(tmp_path / "pipe.png")
    buffer = io.BytesIO()
    toadstool().save(buffer, "BMP")
    (tmp_path / "a.bmp").write_bytes(buffer.getvalue())
    with pytest.raises(UsageError, match="is not a PNG, JPEG or WebP picture, nor AVIF or HEIC"):
        read_picture(tmp_path / "a.bmp")
