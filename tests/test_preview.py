"""Pictures of re-read files: colours, axes, shading, the video and the sheets."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from app.errors import FULL
from app.export.bake import bake
from app.export.glb import TexturedMesh, read_glb, textured, write_glb
from app.export.preview import (
    BACKGROUND,
    KINDS,
    Shading,
    light,
    render_asset,
    sample_texture,
    save_png,
    to_bytes,
    to_linear,
    to_srgb,
)
from app.export.unwrap import unwrap
from app.export.video import ELEVATION, VideoError, contact_sheet, turntable
from renderers.cameras import Cameras, make_cameras, orbit
from renderers.mesh import render_mesh
from renderers.raster import RasterizeTorchContext, make_context

CTX = make_context("cpu")
RED, GREEN, BLUE, GREY = (
    torch.tensor(c) for c in ((0.9, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.2, 0.9), (0.4, 0.4, 0.4))
)


def exported(mesh: trimesh.Trimesh, color: Callable[[Tensor], Tensor], path: Path, size: int = 256) -> TexturedMesh:
    """Unwrap, bake, write, read."""
    vertices = torch.from_numpy(np.array(mesh.vertices, np.float32))
    unwrapped = unwrap(vertices, torch.from_numpy(np.array(mesh.faces, np.int32)), atlas_size=size)
    write_glb(path, textured(unwrapped, bake(CTX, color, unwrapped, size)))
    return read_glb(path)


def view(azimuth: float, elevation: float = 0.0) -> Cameras:
    return make_cameras(torch.tensor([math.radians(azimuth)]), torch.tensor([math.radians(elevation)]))


def swirl(points: Tensor) -> Tensor:
    return 0.5 + 0.4 * torch.sin(points * torch.tensor([5.0, 6.0, 7.0]) + torch.tensor([0.0, 1.0, 2.0]))


def sides(points: Tensor) -> Tensor:
    """A box's colours: +Z red, +Y green, +X blue, the others grey."""
    axis = (points / torch.tensor([0.5, 0.4, 0.3])).abs().argmax(1)
    positive = points.gather(1, axis[:, None]) > 0
    return torch.where(positive, torch.stack([BLUE, GREEN, RED])[axis], GREY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("assets")


@pytest.fixture(scope="module")
def box(folder: Path) -> TexturedMesh:
    return exported(trimesh.creation.box((1.0, 0.8, 0.6)), sides, folder / "box.glb")


@pytest.fixture(scope="module")
def ball(folder: Path) -> TexturedMesh:
    return exported(trimesh.creation.icosphere(4, 0.8), swirl, folder / "ball.glb", 1024)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "color"),
    [(0, 0, RED), (90, 0, BLUE), (180, 0, GREY), (270, 0, GREY), (0, 89.9, GREEN), (0, -89.9, GREY)],
)
def test_axes_survive_the_file(box: TexturedMesh, azimuth: float, elevation: float, color: Tensor) -> None:
    picture = render_asset(CTX, box, view(azimuth, elevation), 64, "base_color")[0]
    torch.testing.assert_close(picture[:, 32, 32], color, atol=2 / 255, rtol=0)


def test_the_picture_is_not_mirrored(box: TexturedMesh) -> None:
    picture = render_asset(CTX, box, view(40, 25), 128, "base_color")[0]

    def middle(color: Tensor) -> Tensor:
        rows, columns = ((picture - color[:, None, None]).abs().amax(0) < 0.02).nonzero().unbind(1)
        assert len(rows) > 100
        return torch.stack([rows.float().mean(), columns.float().mean()])

    red, green, blue = middle(RED), middle(GREEN), middle(BLUE)
    assert red[1] < blue[1]  # +Z turns to the left when the camera moves towards +X
    assert green[0] < red[0] and green[0] < blue[0]


def test_a_colour_survives_bake_file_and_render(folder: Path) -> None:
    color = torch.tensor([0.5, 0.25, 0.75])
    asset = exported(trimesh.creation.icosphere(2, 0.7), lambda p: color.expand_as(p), folder / "plain.glb", 128)
    pictures = render_asset(CTX, asset, orbit(4, 0.3), 64, "base_color")
    assert float((pictures[:, :, 24:40, 24:40] - color[:, None, None]).abs().max()) <= 0.51 / 255
    assert asset.texture.unique(dim=0).shape[0] == 1  # the dilation reaches everywhere


def test_rendered_texture_matches_the_colour_function(ball: TexturedMesh) -> None:
    cameras = orbit(6, 0.4)
    shown = render_asset(CTX, ball, cameras, 128, "base_color")
    direct = render_mesh(CTX, ball.vertices, ball.faces, cameras, 128, swirl, supersample=2)
    inside = direct.alpha.expand_as(shown) > 0.999
    difference = (shown - direct.color)[inside].abs()
    assert int(inside.sum()) > 10_000
    assert float(difference.mean()) < 1 / 255
    assert float(difference.max()) < 4 / 255  # seams included


@pytest.mark.parametrize("shading", KINDS)
def test_kernel_equals_torch(ball: TexturedMesh, shading: Shading) -> None:
    cameras = orbit(3, 0.5, 0.2)
    fused = render_asset(CTX, ball, cameras, 48, shading)
    plain = render_asset(RasterizeTorchContext(), ball, cameras, 48, shading)
    torch.testing.assert_close(fused, plain, atol=2e-5, rtol=0)


def test_background_and_normals(box: TexturedMesh) -> None:
    picture = render_asset(CTX, box, view(0), 64, "normal")[0]
    torch.testing.assert_close(picture[:, 0, 0], torch.full((3,), BACKGROUND))
    sphere = trimesh.creation.icosphere(4, 0.8)
    vertices = torch.from_numpy(np.array(sphere.vertices, np.float32))
    faces = torch.from_numpy(np.array(sphere.faces, np.int32))
    texture = torch.zeros(2, 2, 3, dtype=torch.uint8)
    ball = TexturedMesh(vertices, faces, torch.zeros(len(vertices), 2), vertices / 0.8, texture)
    picture = render_asset(CTX, ball, view(70, 20), 65, "normal")[0]
    torch.testing.assert_close(picture[:, 32, 32], torch.tensor([0.5, 0.5, 1.0]), atol=0.01, rtol=0)
    assert picture[0, 32, 48] > 0.7 and picture[1, 16, 32] > 0.7  # right and up


def test_lit_is_computed_in_linear_light(box: TexturedMesh) -> None:
    flat = box.normals.clone()
    flat[:] = torch.tensor([0.0, 0.0, 1.0])  # the box's smooth normals would shade its front unevenly
    asset = TexturedMesh(box.vertices, box.faces, box.uv, flat, box.texture)
    picture = render_asset(CTX, asset, view(0), 64, "lit")[0]
    brightness = light(torch.tensor([[0.0, 0.0, 1.0]]))[0]
    baked = (RED * 255).round() / 255
    torch.testing.assert_close(picture[:, 32, 32], to_srgb(to_linear(baked) * brightness), atol=1e-4, rtol=0)
    assert 0.7 < float(brightness) < 1


def test_light_comes_from_above_and_never_runs_out() -> None:
    direction = torch.nn.functional.normalize(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float(light(direction).min()) > 0.1
    up, down = light(torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]))
    assert float(up) > 3 * float(down)


def test_srgb_curves_are_inverse() -> None:
    levels = torch.arange(256) / 255
    torch.testing.assert_close(to_srgb(to_linear(levels)), levels, atol=1e-5, rtol=0)
    torch.testing.assert_close(to_linear(torch.tensor(0.5)), torch.tensor(0.21404114), atol=1e-6, rtol=0)


def test_texture_lookup_hits_texel_centres() -> None:
    texture = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1))
    row, column = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    uv = torch.stack([(column + 0.5) / 7, (row + 0.5) / 5], -1).reshape(-1, 2)
    torch.testing.assert_close(sample_texture(texture, uv), texture.flatten(1).T)


def test_save_png(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.rand(3, 3, 8, 8, generator=generator), torch.rand(2, 3, 8, 8, generator=generator)]
    save_png(tmp_path / "grid.png", rows, scale=2, gap=4)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (4 + 2 * 20, 4 + 3 * 20, 3)
    np.testing.assert_array_equal(grid[24:40:2, 24:40:2], to_bytes(rows[1])[1])
    np.testing.assert_array_equal(grid[25:40:2, 25:40:2], to_bytes(rows[1])[1])
    assert (grid[24:40, 44:60] == round(255 * BACKGROUND)).all()  # the second row is one picture short
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]


def test_turntable_reads_back(box: TexturedMesh, tmp_path: Path) -> None:
    path = tmp_path / "turntable.mp4"
    turntable(CTX, box, path, resolution=96, frames=12)
    frames = iio.imread(path)
    assert frames.shape == (12, 96, 96, 3)
    meta = iio.immeta(path)
    assert meta["fps"] == 24 and meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p")
    expected = to_bytes(render_asset(CTX, box, orbit(12, ELEVATION), 96, "lit")).astype(int)
    error = np.abs(frames - expected).mean((1, 2, 3))
    assert error.max() < 4
    assert np.abs(frames[3] - expected[9]).mean() > 8  # it turns, and the right way
    assert np.abs(frames[0, :4, :4] - expected[0, :4, :4]).max() <= 2  # no colour shift
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays while loading
    turntable(CTX, box, tmp_path / "again.mp4", resolution=96, frames=12)
    assert (tmp_path / "again.mp4").read_bytes() == data
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.mp4", "turntable.mp4"]


def test_a_failing_encoder_is_one_sentence(box: TexturedMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        with pytest.raises(VideoError) as error:
            turntable(CTX, box, path, resolution=32, frames=3)
        assert "\n" not in str(error.value) and str(error.value).endswith(".")

    refuse(tmp_path / "no such folder" / "turntable.mp4")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    refuse(tmp_path / "turntable.mp4")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    refuse(tmp_path / "turntable.mp4")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="even"):
        turntable(CTX, box, tmp_path / "turntable.mp4", resolution=33, frames=3)


def test_contact_sheet(box: TexturedMesh, tmp_path: Path) -> None:
    contact_sheet(CTX, box, tmp_path / "sheet.png", resolution=64)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    left, top = 36, 36
    assert sheet.shape == (top + 3 * 64 + 16, left + 8 * 64 + 16, 3)
    for row, shading in enumerate(("lit", "base_color", "normal")):
        for column, picture in enumerate(to_bytes(render_asset(CTX, box, orbit(8, ELEVATION), 64, shading))):
            y, x = top + 64 * row, left + 64 * column
            np.testing.assert_array_equal(sheet[y : y + 64, x : x + 64], picture)
    for column in range(8):  # an azimuth above every column
        assert sheet[:top, left + 64 * column : left + 64 * (column + 1)].min() < 140
    contact_sheet(CTX, box, tmp_path / "again.png", resolution=64)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()


def test_a_full_disk_under_the_encoder_is_the_systems_error(box: TexturedMesh, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError) as error:
            turntable(CTX, box, tmp_path / "turntable.mp4", resolution=96, frames=12)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno in FULL and not list(tmp_path.iterdir())
