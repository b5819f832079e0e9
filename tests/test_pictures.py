"""Reading, cutting out and posing a user's pictures; the light in them; what a picture tells the stages."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.errors import MissingError, UsageError
from app.pictures import intake
from app.pictures.cutout import choose, cut_out
from app.pictures.place import likeness
from app.pictures.pose import FILL, Pose, decode, encode, estimate, load_pose, silhouette_box
from app.pictures.read import MAX_PIXELS, WORK, read_picture
from app.recipe_yaml import load_recipe, to_yaml
from app.recipes import PictureRecipe, Recipe, check, picture_preset
from app.reconstruct import picture_recipe
from app.run.folder import create_run
from app.stages.reference import Anchor, light_of, reference_loss, unlit, with_palette
from app.stages.sample import direct_cameras, picture_views, with_silhouettes
from app.training.photograph import photograph
from renderers.cameras import make_cameras
from renderers.frames import Rendered, reframed
from renderers.snapshot import snapshots
from tests.objects import car, mushroom, table, tree

MESHES = {"car": car(), "mushroom": mushroom(), "table": table(), "tree": tree()}


def disc(size: int = 120, ground: int | None = None, color: tuple[int, int, int] = (200, 40, 30)) -> Image.Image:
    """A disc off the middle: on a transparent ground, or on a grey one."""
    y, x = np.mgrid[:size, :size]
    inside = (x - 0.42 * size) ** 2 + (y - 0.55 * size) ** 2 < (0.25 * size) ** 2
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[..., :3] = 0 if ground is None else ground
    pixels[..., 3] = 0 if ground is None else 255
    pixels[inside] = (*color, 255)
    return Image.fromarray(pixels)


def frame_of(name: str, azimuth: float = 0.6, elevation: float = 0.2, size: int = 64) -> torch.Tensor:
    v, n, c, f = MESHES[name]
    v = v - (v.max(0) + v.min(0)) / 2
    cameras = make_cameras(torch.tensor([azimuth]), torch.tensor([elevation]))
    return torch.from_numpy(snapshots([(v / np.linalg.norm(v, axis=1).max(), n, c, f)], cameras, size))


def test_every_mode_of_png_jpeg_and_webp_is_read(tmp_path: Path) -> None:
    rgb = disc(ground=250).convert("RGB")
    grey16 = Image.fromarray(np.asarray(rgb.convert("L"), np.uint16) * 257)
    palette = rgb.quantize(16)
    for name, image in (
        ("rgb.png", rgb),
        ("grey.png", rgb.convert("L")),
        ("grey16.png", grey16),
        ("palette.png", palette),
        ("cmyk.jpg", rgb.convert("CMYK")),
        ("bw.png", rgb.convert("1")),
        ("la.png", disc().convert("LA")),
        ("rgba.webp", disc()),
    ):
        image.save(tmp_path / name)
        pixels = read_picture(tmp_path / name)
        assert pixels.dtype == np.uint8 and pixels.shape == (120, 120, 4), name
        inside, outside = pixels[56:76, 40:60].mean((0, 1)), pixels[:10, :10].mean((0, 1))
        assert np.abs(inside - outside).max() > 40, name
    assert read_picture(tmp_path / "grey16.png")[4, 4, 0] == 250, "16 bits are scaled, not cut"
    red = read_picture(tmp_path / "cmyk.jpg")[66, 50]
    assert red[0] > 150 and red[1] < 90, "CMYK becomes RGB"


def test_exif_orientation_is_obeyed_and_large_pictures_become_smaller(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    image.putpixel((0, 0), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    pixels = read_picture(tmp_path / "turned.png")
    assert pixels.shape[:2] == (40, 20) and pixels[0, -1, 0] == 0
    Image.new("RGB", (3000, 1500)).save(tmp_path / "large.jpg")
    assert read_picture(tmp_path / "large.jpg").shape == (WORK // 2, WORK, 4)


def bomb(path: Path) -> None:
    """A PNG of a few hundred bytes whose header claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def test_what_is_no_still_picture_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def refused(name: str, match: str) -> None:
        with pytest.raises(UsageError, match=match) as e:
            read_picture(tmp_path / name)
        assert "\n" not in str(e.value) and str(e.value).endswith(".")

    refused("absent.png", "cannot be read")
    (tmp_path / "folder.png").mkdir()
    refused("folder.png", "folder")
    (tmp_path / "text.png").write_text("hello")
    refused("text.png", "is not a PNG")
    (tmp_path / "empty.png").write_bytes(b"")
    refused("empty.png", "is not a PNG")
    disc().save(tmp_path / "a.gif")
    refused("a.gif", "is not a PNG")
    frames = [disc(40, g) for g in (0, 100, 200)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    refused("moving.webp", "animated")
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    refused("moving.png", "animated")
    buffer = io.BytesIO()
    disc(200, 90).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    refused("cut.png", "truncated")
    bomb(tmp_path / "bomb.png")
    assert 60_000**2 > MAX_PIXELS
    refused("bomb.png", "large|limit")
    Image.new("RGB", (8, 8)).save(tmp_path / "tiny.png")
    refused("tiny.png", "only 8 x 8")


def test_alpha_passes_through_untouched_and_the_silhouette_is_centred() -> None:
    pixels = np.array(disc())
    pixels[50:60, 40:50, 3] = 128  # half see-through
    cutout = cut_out(pixels)
    assert cutout.how == "alpha" and not cutout.cropped
    centre, extent = silhouette_box(cutout.rgba[None, 3:])
    assert centre.abs().max() < 0.01 and abs(float(extent) - FILL) < 0.01
    levels = set(np.unique((cutout.rgba[3].numpy() * 255).round()).astype(int).tolist())
    assert {0, 128, 255} <= levels
    assert abs(float(cutout.rgba[0][cutout.rgba[3] > 0.99].mean()) - 200 / 255) < 0.01


@pytest.mark.parametrize("how", ["key", "grabcut"])
def test_backgrounds_are_cut_away(how: str) -> None:
    y, x = np.mgrid[:160, :160]
    pixels = np.array(disc(160, 200))
    ground = np.clip(170 + 0.3 * x + 0.2 * y, 0, 255).astype(np.uint8)  # a studio's gradient
    out = (pixels[..., :3] == 200).all(-1)
    pixels[out, :3] = ground[out, None]
    assert choose(pixels) == "key"
    found = cut_out(pixels, how)
    area = float((found.rgba[3] > 0.5).float().mean())
    assert abs(area - math.pi / 4 * FILL**2) < 0.03, "a disc that fills its box"
    inside = found.rgba[:3, found.rgba[3] > 0.5]
    assert float((inside[0] - inside[1]).min()) > 0.3, "no background colour is left at the edge"


def test_a_busy_background_goes_to_grabcut_and_a_plain_one_keeps_holes_of_its_colour() -> None:
    g = np.random.default_rng(0)
    busy = np.array(disc(160, 90))
    out = (busy[..., :3] == 90).all(-1)
    busy[out, :3] = g.integers(40, 160, (int(out.sum()), 3))
    assert choose(busy) == "grabcut"
    eye = np.array(disc(160, 230))
    eye[86:90, 64:70, :3] = 230  # an eye of the background's colour
    cutout = cut_out(eye)
    assert cutout.how == "key" and float(cutout.rgba[3, 240:270, 230:270].min()) > 0.9


def test_pictures_without_an_object_are_refused() -> None:
    plain = np.full((64, 64, 4), 255, np.uint8)
    with pytest.raises(UsageError, match="No object"):
        cut_out(plain)
    with pytest.raises(UsageError, match="no transparency"):
        cut_out(plain, "alpha")
    nothing = plain.copy()
    nothing[..., 3] = 0
    with pytest.raises(UsageError, match="transparent everywhere"):
        cut_out(nothing)
    assert float(cut_out(plain, "none").rgba[3].max()) == 1
    assert cut_out(np.array(disc(ground=200))[:, :60], "key").cropped, "the disc reaches the right edge"


@pytest.mark.skipif(importlib.util.find_spec("rembg") is not None, reason="rembg is installed")
def test_rembg_is_an_extra() -> None:
    with pytest.raises(MissingError, match="pip install"):
        cut_out(np.array(disc(ground=200)), "rembg")


def test_the_pose_network_is_shipped_and_beats_a_guess() -> None:
    net, g = load_pose(), torch.Generator().manual_seed(0)
    errors, guesses = [], []
    for name in MESHES:
        for elevation in (-0.1, 0.25, 0.6):
            picture = photograph(frame_of(name, 0.7, elevation, 96), g)
            centre, extent = silhouette_box(picture[:, 3:4])
            pose = estimate(net, reframed(picture, FILL / extent, centre)[:, :4])
            errors.append(abs(float((pose.scale / (extent / FILL)).log())))
            guesses.append(abs(float((0.74 / (extent / FILL)).log())))
            assert -0.4 < float(pose.elevation) < 0.9
    assert sum(errors) < 0.6 * sum(guesses), (sum(errors), sum(guesses))


def test_poses_encode_and_decode() -> None:
    pose = Pose(torch.tensor([0.1, 0.5]), torch.tensor([0.7, 0.95]), torch.tensor([[0.1, -0.05], [0.0, 0.02]]))
    again = decode(encode(pose))
    for a, b in zip(
        (pose.elevation, pose.scale, pose.centre), (again.elevation, again.scale, again.centre), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_pictures_are_kept_in_the_run_and_read_back_at_their_pose(tmp_path: Path) -> None:
    truth = photograph(frame_of("car", size=256), torch.Generator().manual_seed(1))[0]
    alpha = truth[3:4]
    straight = (truth[:3] - 0.5 * (1 - alpha)) / alpha.clamp(min=1e-3)
    pixels = (torch.cat([straight.clamp(0, 1), alpha]).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "car.png")
    options = PictureRecipe(count=1, elevation=(11.46,))
    run = create_run(Recipe(picture=options), tmp_path / "run")
    posed = intake.store(run, intake.take([tmp_path / "car.png"], options), options)
    assert posed[0].azimuth == 0 and posed[0].elevation == 11.46 and posed[0].estimated == ()
    centre, extent = silhouette_box(alpha[None])
    x, y = centre[0].tolist()
    exact = dataclasses.replace(posed[0], scale=float(extent) / FILL, centre=(x, y))
    intake.write(run, [exact])
    references = intake.load(run, 64)
    off = (references.fine[0, :4] - truth[:4]).abs()
    assert float(off.mean()) < 0.01, "with the true scale and centre the picture is what the camera saw"
    assert references.picture().frames.shape == (1, 7, 64, 64)
    (run.pictures / "pictures.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        intake.load(run, 64)


def test_angles_and_recipes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one for each"):
        intake.check_angles(2, PictureRecipe(azimuth=(0.0,)))
    with pytest.raises(UsageError, match="out of range"):
        intake.check_angles(1, PictureRecipe(elevation=(80.0,)))
    with pytest.raises(UsageError, match="1 to 8"):
        picture_recipe(picture_preset("draft"), 0)
    with pytest.raises(UsageError, match="background"):
        check(Recipe("x", picture=PictureRecipe(background="magic")))
    with pytest.raises(UsageError, match="auto, cut or keep"):
        check(Recipe("x", picture=PictureRecipe(holes="magic")))
    recipe = picture_recipe(Recipe(method="sds", picture=PictureRecipe(azimuth=(0.0, 90.0))), 2)
    assert recipe.init == "direct" and recipe.picture.count == 2
    (tmp_path / "config.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "config.yaml") == recipe, "tuples survive YAML"


def test_the_views_are_the_pictures_own() -> None:
    pictures = make_cameras(torch.tensor([0.5, 2.0]), torch.tensor([0.3, -0.1]))
    cameras = direct_cameras(picture_preset("draft").direct, pictures=pictures)
    which = picture_views(cameras, pictures)
    assert len(cameras) == 9 and which == [0, 8]
    torch.testing.assert_close(cameras.azimuth[which], pictures.azimuth)
    torch.testing.assert_close(cameras.elevation[which], pictures.elevation)
    around = (cameras.azimuth[:8] - 0.5).rad2deg()
    torch.testing.assert_close(around, torch.arange(8) * 45.0, atol=1e-3, rtol=0)


def test_silhouettes_are_put_into_their_views() -> None:
    sampled, picture = frame_of("car").expand(4, -1, -1, -1), frame_of("mushroom")
    out = with_silhouettes(sampled, picture, [2])
    torch.testing.assert_close(out[2, 3], picture[0, 3])
    torch.testing.assert_close(out[[0, 1, 3]], sampled[[0, 1, 3]])
    assert float((out[2, :3] - 0.5).abs().amax(0)[picture[0, 3] == 0].max()) == 0, "grey around it"


def test_smooth_light_is_found_and_taken_out() -> None:
    base = frame_of("car", size=96)
    ramp = torch.linspace(0.6, 1.4, 96)[None, None, None].expand(1, 1, 96, 96)
    alpha = base[:, 3:4]
    color = ((base[:, :3] - 0.5 * (1 - alpha)) / alpha.clamp(min=1e-2)).clamp(0, 1) * 0.8
    plain = torch.cat([color * alpha + 0.5 * (1 - alpha), base[:, 3:]], 1)
    linear = torch.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    lit = (linear * ramp).clamp(0, 1)
    lit = torch.where(lit <= 0.0031308, 12.92 * lit, 1.055 * lit.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)
    picture = torch.cat([lit * alpha + 0.5 * (1 - alpha), base[:, 3:]], 1)
    out = unlit(picture, light_of(picture, plain))

    def error(x: torch.Tensor) -> float:
        return float(((x[:, :3] - plain[:, :3]).abs() * alpha).sum() / alpha.sum())

    assert error(out) < 0.35 * error(picture)


def test_the_palette_removes_hues_that_the_picture_does_not_have() -> None:
    picture = frame_of("mushroom")
    g = torch.Generator().manual_seed(0)
    spoilt = picture.clone()
    alpha = picture[:, 3:4]
    spoilt[:, :3] = ((picture[:, :3] + 0.25 * torch.randn(1, 3, 1, 1, generator=g)).clamp(0, 1) - 0.5) * alpha + 0.5
    spoilt[:, 2] = (spoilt[:, 2] + 0.1 * alpha[:, 0]).clamp(0, 1)
    drawn = with_palette(spoilt, picture[0], 1.0)
    solid = alpha > 0.9

    def to_picture(frames: torch.Tensor) -> float:
        """Mean distance of solid pixels to the nearest colour of the picture."""
        a, b = (x[:, :3].permute(0, 2, 3, 1)[solid[:, 0]] for x in (frames, picture))
        return float(torch.cdist(a, b).amin(1).mean())

    assert to_picture(drawn) < 0.5 * to_picture(spoilt)
    torch.testing.assert_close(drawn[:, 3:], spoilt[:, 3:])
    torch.testing.assert_close(with_palette(spoilt, picture[0], 0.0), spoilt)


def test_the_reference_loss_pulls_as_its_formula_says() -> None:
    target = frame_of("car")
    alpha = target[:, 3:4].clone().requires_grad_(True)
    rgb = (target[:, :3] - 0.5 * (1 - target[:, 3:4]) + 0.1 * target[:, 3:4]).requires_grad_(True)
    normal = torch.zeros_like(target[:, 4:])
    rendered = Rendered(rgb, alpha, normal, torch.zeros_like(alpha))
    loss = reference_loss(rendered, target, 2.0, 3.0)
    off = 2 * (rendered.frames()[:, :4] - target[:, :4])
    wanted = 0.5 * (2 * (target[:, 3:4] * off[:, :3] ** 2).sum() + 3 * (off[:, 3:] ** 2).sum())
    torch.testing.assert_close(loss, wanted)
    (gradient,) = torch.autograd.grad(loss, rgb)
    torch.testing.assert_close(gradient, 2 * 2 * target[:, 3:4] * off[:, :3])
    anchor = Anchor(
        make_cameras(torch.zeros(1), torch.zeros(1)), target, PictureRecipe(weight_color=2.0, weight_alpha=3.0)
    )
    torch.testing.assert_close(anchor.loss(rendered, 1.0), 0.5 * loss)


def test_likeness_prefers_the_right_side() -> None:
    around = torch.cat([frame_of("car", a) for a in (0.0, math.pi / 2, math.pi, 3 * math.pi / 2)])
    picture = photograph(frame_of("car", math.pi / 2 + 0.1), torch.Generator().manual_seed(3))[0]
    assert int(likeness(picture, around).argmax()) in (1, 3)
    assert float(likeness(around[0], around)[0]) == pytest.approx(1.0, abs=1e-4)


def test_names_are_json() -> None:
    config = json.loads((Path(intake.__file__).parents[2] / "assets" / "pose" / "config.json").read_text())
    assert config["held_out_median_errors"]["elevation"] < 10
