"""Cutting out what is hard to cut out: specks, glass, round corners, many things, holes, thin and small objects."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from app.errors import UsageError
from app.pictures import intake
from app.pictures.alpha import is_rectangle, solidified
from app.pictures.cutout import Cutout, choose, cut_out
from app.pictures.pose import estimate, load_pose
from app.recipes import PictureRecipe, Recipe
from app.run.folder import create_run
from app.web.show import of_pictures
from tests.drawn import CAP, WHITE, cut, face, mug, pixels, rounded, sheet, toadstool


def area(cutout: Cutout) -> float:
    return float((cutout.rgba[3] > 0.5).float().mean())


def same(a: Cutout, b: Cutout, most: float = 0.01) -> bool:
    """Whether two cut-outs show the same thing at the same place, colours included."""
    off = (intake.on_grey(a.rgba) - intake.on_grey(b.rgba)).abs().mean(0)
    return float(off.mean()) < most


CLEAN = cut_out(pixels(cut(toadstool())))


def test_stray_specks_change_neither_size_nor_elevation() -> None:
    stray = cut(toadstool())
    for at in ((2, 2), (250, 253)):
        stray.putpixel(at, (0, 0, 0, 255))
    found = cut_out(pixels(stray))
    assert same(found, CLEAN, 1e-4) and CLEAN.notes == ()
    one, other = (estimate(load_pose(), intake.on_grey(c.rgba)[None]) for c in (found, CLEAN))
    torch.testing.assert_close(one.elevation, other.elevation)
    assert found.how == "alpha" and len(found.notes) == 1 and "2 loose parts" in found.notes[0]
    for box, count in (((0, 0, 255, 0), 1), ((3, 3, 11, 11), 1)):  # the edge of a bad crop; a blot
        blotted = cut(toadstool())
        ImageDraw.Draw(blotted).rectangle(box, fill=(0, 0, 0, 255))
        found = cut_out(pixels(blotted))
        assert same(found, CLEAN, 1e-4) and f"{count} loose part " in found.notes[0]
    within = cut(toadstool())
    within.putpixel((70, 200), (0, 0, 0, 255))  # in the object's own box, and too small to be missed
    assert same(cut_out(pixels(within)), CLEAN, 1e-4) and cut_out(pixels(within)).notes == ()


def test_an_object_of_two_parts_stays_whole() -> None:
    shoes = Image.new("RGBA", (300, 200))
    for x in (20, 170):
        ImageDraw.Draw(shoes).rounded_rectangle((x, 60, x + 110, 180), 40, fill=(90, 50, 20, 255))
    found = cut_out(pixels(shoes))
    alpha = found.rgba[3]
    assert float(alpha[256, :200].max()) == 1 and float(alpha[256, 312:].max()) == 1
    assert found.notes == ("2 separate parts are taken for one object; crop the picture if they are not.",)
    kite = Image.new("RGBA", (400, 400))
    ImageDraw.Draw(kite).polygon([(200, 20), (300, 120), (200, 260), (100, 120)], fill=(220, 60, 60, 255))
    ImageDraw.Draw(kite).line([(200, 260), (220, 300), (190, 340), (210, 390)], fill=(30, 30, 30, 255))
    found = cut_out(pixels(kite))
    assert float(found.rgba[3, 440:, :].max()) > 0.5 and found.notes == (), "a thin tail is no speck"


@pytest.mark.parametrize("level", [30, 60, 110, 150, 200])
def test_a_see_through_object_is_an_object(level: int) -> None:
    found = cut_out(pixels(cut(toadstool(), level)))
    assert same(found, CLEAN, 2e-3) and len(found.notes) == 1 and "see-through" in found.notes[0]
    with pytest.raises(UsageError, match="transparent everywhere"):
        cut_out(pixels(cut(toadstool(), 5)))


def test_glass_with_a_solid_cap_is_whole_and_a_shadow_is_none() -> None:
    bottle = Image.new("RGBA", (256, 256))
    draw = ImageDraw.Draw(bottle)
    draw.rounded_rectangle((90, 70, 166, 240), 20, fill=(60, 140, 90, 110))
    draw.rectangle((108, 30, 148, 70), fill=(60, 60, 60, 255))
    found = cut_out(pixels(bottle))
    assert float(found.rgba[3, 300, 256]) > 0.99 and float(found.rgba[3, 60, 256]) > 0.99
    assert "see-through" in found.notes[0]
    shaded = Image.new("RGBA", (256, 256))
    ImageDraw.Draw(shaded).ellipse((20, 170, 236, 250), fill=(0, 0, 0, 110))
    shaded = shaded.filter(ImageFilter.GaussianBlur(9))
    small = toadstool().resize((128, 128))
    shaded.alpha_composite(cut(small), (64, 84))
    assert solidified(np.asarray(pixels(shaded)[..., 3] / 255, np.float32)) is None
    object_, clean = cut_out(pixels(shaded)).rgba[3] > 0.5, CLEAN.rgba[3] > 0.5
    assert float((object_ & clean).sum() / (object_ | clean).sum()) > 0.95 and cut_out(pixels(shaded)).notes == ()


@pytest.mark.parametrize(("radius", "margin"), [(56, 0), (20, 8), (12, 0)])
def test_round_corners_are_no_cut_out(radius: int, margin: int) -> None:
    blue = toadstool((60, 120, 200))
    icon = rounded(blue, radius, margin)
    assert choose(pixels(icon)) == "key"
    found = cut_out(pixels(icon))
    assert found.how == "key" and same(found, cut_out(pixels(blue)), 2e-3)
    if radius > 12:  # less than a hundredth is transparent: nothing to be said
        assert len(found.notes) == 1 and "--background alpha" in found.notes[0]
    whole = cut_out(pixels(icon), "alpha")
    assert area(whole) > 0.7 and whole.how == "alpha"


def test_a_faded_border_is_no_cut_out_and_a_tile_is_an_object() -> None:
    y, x = np.mgrid[:256, :256]
    edge = np.minimum(np.minimum(x, 255 - x), np.minimum(y, 255 - y))
    faded = toadstool((120, 150, 120))
    faded.putalpha(Image.fromarray((np.clip(edge / 24, 0, 1) * 255).astype(np.uint8)))
    assert same(cut_out(pixels(faded)), cut_out(pixels(toadstool((120, 150, 120)))), 2e-3)
    tile = cut_out(pixels(rounded(Image.new("RGB", (256, 256), CAP), 40)))
    assert tile.how == "alpha" and area(tile) > 0.7 and "--background key" in tile.notes[0]
    assert not tile.cropped, "a cut-out without margins is not cut off"
    radio = Image.new("RGB", (256, 256), (240, 240, 240))
    ImageDraw.Draw(radio).rectangle((16, 16, 240, 120), fill=(60, 80, 90))
    ImageDraw.Draw(radio).ellipse((80, 140, 176, 236), fill=(200, 60, 60))
    assert area(cut_out(pixels(rounded(radio, 30)))) > 0.7, "what falls apart within is a part of it"
    disc = Image.new("RGBA", (256, 256))
    ImageDraw.Draw(disc).ellipse((0, 0, 255, 255), fill=CAP)
    assert not is_rectangle(pixels(disc)[..., 3]) and cut_out(pixels(disc)).notes == ()


@pytest.mark.parametrize(("rows", "ground", "how"), [(4, WHITE, "key"), (2, None, "alpha"), (3, (30, 60, 90), "key")])
def test_many_things_are_not_one_object(rows: int, ground: tuple[int, int, int] | None, how: str) -> None:
    many = pixels(sheet(rows, ground))
    with pytest.raises(UsageError, match=rf"shows {rows**2} separate things.*--background {how}.*\.$"):
        cut_out(many)
    chosen = cut_out(many, how)
    assert f"{rows**2} separate parts are taken for one object" in chosen.notes[-1]


def test_a_few_things_are_said_and_what_overlaps_is_one() -> None:
    three = Image.new("RGB", (600, 256), WHITE)
    for k in range(3):
        three.paste(toadstool().crop((50, 0, 206, 256)), (20 + 190 * k, 0))
    assert "3 separate parts" in cut_out(pixels(three)).notes[0]
    ball = Image.new("RGB", (256, 256), WHITE)
    ImageDraw.Draw(ball).ellipse((40, 40, 216, 216), fill=(30, 80, 200))
    for x in range(-200, 200, 50):
        ImageDraw.Draw(ball).line((x, 0, x + 256, 256), fill=WHITE, width=14)
    assert " separate parts" in cut_out(pixels(ball)).notes[0], "stripes of one thing"


def test_what_grabcut_leaves_scattered_is_left_out_and_said() -> None:
    g = np.random.default_rng(3)
    busy = Image.new("RGB", (320, 256), WHITE)
    draw = ImageDraw.Draw(busy)
    for _ in range(140):
        x, y, side = int(g.integers(-20, 320)), int(g.integers(-20, 256)), int(g.integers(6, 26))
        draw.ellipse((x, y, x + side, y + side), fill=tuple(int(c) for c in g.integers(0, 255, 3)))
    scattered = pixels(busy)
    assert choose(scattered) == "grabcut"
    with pytest.raises(UsageError, match="separate things"):
        cut_out(scattered)
    busy.paste(toadstool().crop((50, 40, 206, 220)), (80, 30), cut(toadstool()).crop((50, 40, 206, 220)))
    found = cut_out(pixels(busy))
    assert any("loose part" in n and "--background" in n for n in found.notes), found.notes
    sizes = np.sort(np.bincount(labels(found))[1:])[::-1]
    assert len(sizes) < 4 and (sizes >= 0.15 * sizes[0]).all()


def labels(cutout: Cutout) -> np.ndarray:
    from app.pictures.masks import labelled

    return labelled(cutout.rgba[3].numpy() > 0.5, corners=True).ravel()


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def handle(cutout: Cutout) -> float:
    """Mean alpha in the middle of the mug's handle."""
    return float(cutout.rgba[3, 240:280, 395:420].mean())


@pytest.mark.parametrize("ground", [WHITE, (200, 210, 220), (20, 20, 20)])
@pytest.mark.parametrize("quality", [0, 90, 75])
def test_the_ground_is_cut_out_of_a_handle(ground: tuple[int, int, int], quality: int) -> None:
    image = as_jpeg(mug(ground), quality) if quality else mug(ground)
    found = cut_out(pixels(image))
    assert found.how == "key" and handle(found) < 0.1, handle(found)
    assert len(found.notes) == 1 and "--holes keep" in found.notes[0]
    kept = cut_out(pixels(image), holes="keep")
    assert handle(kept) == 1 and "--holes cut" in kept.notes[0]


def test_a_hole_on_an_uneven_ground_is_a_matter_of_choice() -> None:
    g = np.random.default_rng(0)
    rough = np.asarray(mug(), int)
    rough = np.clip(rough - np.abs(g.normal(0, 9, rough.shape[:2]))[..., None], 0, 255).astype(np.uint8)
    image = pixels(Image.fromarray(rough))
    assert choose(image) == "key"
    found = cut_out(image)
    assert handle(found) == 1 and "--holes cut" in found.notes[0]
    assert handle(cut_out(image, holes="cut")) < 0.5


def test_eyes_with_pupils_are_kept_unless_asked() -> None:
    found = cut_out(pixels(face()))
    eye = found.rgba[3, 180:210, 130:150]
    assert float(eye.min()) == 1 and "--holes cut" in found.notes[0]
    assert float(cut_out(pixels(face()), holes="cut").rgba[3, 180:210, 130:150].max()) == 0


def test_thin_and_small_objects_are_said_or_refused() -> None:
    def bar(width: int, height: int) -> np.ndarray:
        image = Image.new("RGB", (1000, 200), WHITE)
        ImageDraw.Draw(image).rectangle((50, 100, 49 + width, 99 + height), fill=(200, 160, 40))
        return pixels(image)

    with pytest.raises(UsageError, match=r"45 times as long as it is wide.*\.$"):
        cut_out(bar(900, 20))
    assert "15 times" in cut_out(bar(900, 60)).notes[0] and cut_out(bar(900, 90)).notes == ()
    speck = np.zeros((64, 64, 4), np.uint8)
    speck[30:35, 30:35] = 255
    with pytest.raises(UsageError, match="only 5 pixels"):
        cut_out(speck)


def test_notes_are_kept_with_the_pictures_and_shown(tmp_path: Path) -> None:
    toadstool(cap=CAP).save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    mug().save(tmp_path / "mug.png")
    options = PictureRecipe(count=2, azimuth=(0.0, 90.0))
    run = create_run(Recipe(picture=options), tmp_path / "run")
    posed = intake.store(run, intake.take([tmp_path / "phone.jpg", tmp_path / "mug.png"], options), options)
    assert [len(p.notes) for p in posed] == [1, 1] and intake.read(run) == posed
    assert of_pictures(run.folder) == [
        "phone.jpg: The file holds 2 pictures, of which the first is used.",
        f"mug.png: {posed[1].notes[0]}",
    ]
    kept = PictureRecipe(count=1, holes="keep")
    assert "--holes cut" in intake.take([tmp_path / "mug.png"], kept)[0][1].notes[0]
