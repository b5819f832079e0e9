"""`polymode reconstruct` as a process: short runs on pictures of objects made in code, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.export.glb import read_glb
from app.training.photograph import photograph
from renderers.cameras import make_cameras
from renderers.snapshot import snapshots
from tests.objects import mushroom
from tests.test_cli import polymode, sentence

FAST = ["--direct.steps", "3", "--direct.rounds", "1", "--direct.fit", "20", "--texture.size", "256"]
FAST += ["--mesh.faces", "1500", "--direct.faces-fine", "2000"]


def photographed(path: Path, azimuth: float = 0.0, ground: tuple[float, float, float] = (0.8, 0.82, 0.85)) -> Path:
    """A lit mushroom on a plain ground, as a JPEG."""
    v, n, c, f = mushroom()
    v = v / np.linalg.norm(v, axis=1).max()
    cameras = make_cameras(torch.tensor([azimuth]), torch.tensor([math.radians(15)]))
    frame = torch.from_numpy(snapshots([(v, n, c, f)], cameras, 256))
    lit, alpha = photograph(frame, torch.Generator().manual_seed(4))[0, :3], frame[0, 3:4]
    picture = lit - 0.5 * (1 - alpha) + torch.tensor(ground)[:, None, None] * (1 - alpha)
    pixels = (picture.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, quality=92)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("reconstruct")
    picture = photographed(folder / "toadstool.jpg")
    result = polymode("reconstruct", str(picture), *FAST, "--out", str(folder / "run"), "--json")
    assert result.returncode == 0, result.stderr
    assert "elevation" in result.stderr and "estimated" in result.stderr
    return folder / "run", json.loads(result.stdout)


def test_a_picture_becomes_an_asset_that_looks_like_it(finished: tuple[Path, dict]) -> None:
    run, printed = finished
    assert printed["status"] == "done"
    mesh = read_glb(run / "mesh.glb")
    assert 200 < len(mesh.faces) <= 1500 and float(mesh.vertices.norm(dim=1).max()) < 1.2
    (picture,) = printed["metadata"]["pictures"]
    assert picture["source"] == "toadstool.jpg" and picture["background"] == "key" and picture["azimuth"] == 0
    assert set(picture["estimated"]) == {"elevation"} and abs(picture["elevation"] - 15) < 25
    assert picture["psnr"] >= 22 and picture["silhouette_iou"] > 0.85, picture
    for name in ("00.png", "seen.png", "compare.png", "pictures.json"):
        assert (run / "pictures" / name).is_file()
    with Image.open(run / "pictures" / "00.png") as cutout:
        assert cutout.mode == "RGBA" and cutout.size == (512, 512)
    up = mesh.vertices[:, 1] > 0.2
    assert float(mesh.vertices[up, 0].abs().max()) > 1.5 * float(mesh.vertices[~up][:, 0].abs().median())


def test_a_reconstruction_repeats_and_resumes_to_the_same_bytes(finished: tuple[Path, dict], tmp_path: Path) -> None:
    run, _ = finished
    picture = photographed(tmp_path / "toadstool.jpg")
    out = tmp_path / "again"
    result = polymode("reconstruct", str(picture), *FAST, "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert (out / "mesh.glb").read_bytes() == (run / "mesh.glb").read_bytes()
    (out / "mesh.glb").unlink()
    picture.unlink()  # a resumed run reads its own folder
    result = polymode("generate", "--resume", str(out))
    assert result.returncode == 0, result.stderr
    assert (out / "mesh.glb").read_bytes() == (run / "mesh.glb").read_bytes()


def test_distillation_goes_on_from_the_direct_result_and_two_pictures_are_placed(tmp_path: Path) -> None:
    one, two = photographed(tmp_path / "one.jpg"), photographed(tmp_path / "two.jpg", math.pi / 2)
    with Image.open(one) as image:  # as a phone writes them
        image.convert("RGB").save(one, "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))], quality=92)
    short = ["--field.steps", "6", "--refine.steps", "3", "--mesh.resolution", "48", "--field.resolution", "48"]
    arguments = ["reconstruct", str(one), str(two), "--method", "sds", "--prompt", "a mushroom", *FAST, *short]
    result = polymode(*arguments, "--out", str(tmp_path / "run"), "--json")
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    pictures = printed["metadata"]["pictures"]
    assert len(pictures) == 2 and "azimuth" in pictures[1]["estimated"]
    told = "The file holds 2 pictures, of which the first is used."
    assert pictures[0]["notes"] == [told] and pictures[1]["notes"] == [] and f"one.jpg: {told}\n" in result.stderr
    assert min(p["psnr"] for p in pictures) > 15
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert {e["stage"] for e in events if e["event"] == "step"} >= {"sample", "fuse1", "field", "refine1"}


def test_bad_pictures_and_flags_are_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "run"
    picture = str(photographed(tmp_path / "p.jpg"))
    (tmp_path / "text.png").write_text("no picture")
    for arguments, words in (
        ([str(tmp_path / "absent.png")], "absent.png cannot be read"),
        ([str(tmp_path / "text.png")], "is not a PNG, JPEG or WebP"),
        ([picture, "--azimuth", "0", "90"], "2 values for 1 pictures"),
        ([picture, "--elevation", "85"], "out of range"),
        ([picture, "--background", "magic"], "Unknown background"),
        ([picture, "--background", "alpha"], "no transparency"),
        ([picture, "--holes", "magic"], "Unknown choice of holes"),
        ([picture, "--guide.blind-camera"], "cameras"),
    ):
        assert words in sentence(polymode("reconstruct", *arguments, "--out", str(out)), 2)
        assert not out.exists(), "nothing is written for what is refused"
    assert "0 pictures" in sentence(polymode("reconstruct"), 2)
