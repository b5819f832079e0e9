"""Pictures into a run: read, cut out, posed, kept in its folder, and handed to the stages as references.

    pictures/00.png          the cut-out, in its silhouette's frame (app/pictures/cutout.py): what is worked with
    pictures/00-seen.png     what the prior is shown: posed, on mid-grey
    pictures/pictures.json   name, background, elevation, azimuth, scale and centre of each, and which were estimated

A resumed or repeated run reads these, not the user's file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from app.errors import UsageError
from app.export.preview import save_png
from app.pictures.cutout import Cutout, cut_out
from app.pictures.pose import estimate, load_pose
from app.pictures.read import read_picture
from app.recipes import PictureRecipe
from app.run.folder import Run, atomic
from guidance.prior import Picture
from renderers.cameras import Cameras, make_cameras
from renderers.frames import reframed

FINE = 256  # pixels of a reference when its colours are projected


@dataclass(frozen=True)
class Posed:
    """A line of pictures.json. Angles in degrees; `azimuth` None until it is estimated; scale and centre as in
    app/pictures/pose.py."""

    file: str
    source: str
    background: str
    cropped: bool
    elevation: float
    azimuth: float | None
    scale: float
    centre: tuple[float, float]
    estimated: tuple[str, ...]


def take(paths: Sequence[Path], options: PictureRecipe) -> list[tuple[str, Cutout]]:
    """(name, cut-out) of each picture. UsageError or MissingError in one sentence; nothing is written."""
    model = Path(options.rembg_model) if options.rembg_model else None
    return [(path.name, cut_out(read_picture(path), options.background, model)) for path in paths]


def check_angles(count: int, options: PictureRecipe) -> None:
    """UsageError unless each list of angles is empty or has one for every picture, in range."""
    for name, values, low, high in (
        ("azimuth", options.azimuth, -360.0, 360.0),
        ("elevation", options.elevation, -30.0, 60.0),
    ):
        if values and len(values) != count:
            raise UsageError(f"--{name} has {len(values)} values for {count} pictures; give one for each, or none.")
        for v in values:
            if not low <= v <= high:
                raise UsageError(f"--{name} {v:g} is out of range; use {low:g} to {high:g} degrees.")


def store(run: Run, taken: Sequence[tuple[str, Cutout]], options: PictureRecipe) -> list[Posed]:
    """Pose the cut-outs and write them into the run's folder. Without --azimuth the first picture is the front."""
    run.pictures.mkdir(exist_ok=True)
    found = estimate(load_pose(), torch.stack([on_grey(c.rgba) for _, c in taken]))
    posed = []
    for k, (name, cutout) in enumerate(taken):
        given = bool(options.elevation)
        elevation = options.elevation[k] if given else math.degrees(float(found.elevation[k]))
        azimuth = options.azimuth[k] if options.azimuth else (0.0 if k == 0 else None)
        line = Posed(
            f"{k:02d}.png",
            name,
            cutout.how,
            cutout.cropped,
            round(min(60.0, max(-30.0, elevation)), 2),
            azimuth,
            round(float(found.scale[k]), 4),
            (round(float(found.centre[k, 0]), 4), round(float(found.centre[k, 1]), 4)),
            tuple(n for n, missing in (("elevation", not given), ("azimuth", azimuth is None)) if missing),
        )
        with atomic(run.pictures / line.file) as path:
            rgba = (cutout.rgba.permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
            Image.fromarray(rgba).save(path, "PNG")
        posed.append(line)
    write(run, posed)
    seen = load(run, 64).fine
    save_png(run.pictures / "seen.png", [seen[:, :3]])
    return posed


def write(run: Run, posed: Sequence[Posed]) -> None:
    run.write_json("pictures/pictures.json", [dataclasses.asdict(p) for p in posed])


def read(run: Run) -> list[Posed]:
    """pictures.json. UsageError where it is absent or damaged."""
    path = run.pictures / "pictures.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Posed(**(r | {"centre": tuple(r["centre"]), "estimated": tuple(r["estimated"])})) for r in rows]
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise UsageError(f"{path} is missing or damaged ({type(e).__name__}); start the run again.") from e


@dataclass(frozen=True)
class References:
    """K pictures in the object's frame, the first at azimuth 0 unless it was given. fine (K, 7, 256, 256) and frames
    (K, 7, S, S): lit colour on mid-grey, alpha, normals mid-grey."""

    fine: Tensor
    frames: Tensor
    cameras: Cameras

    def picture(self) -> Picture:
        """What the prior is told: azimuths relative to the first."""
        return Picture(self.frames, self.cameras.azimuth, self.cameras.elevation)


def load(run: Run, size: int, device: torch.device | str = "cpu") -> References:
    """The run's pictures, at the prior's `size`. Pictures without an azimuth yet count as the front."""
    posed = read(run)
    fine = []
    for p in posed:
        try:
            with Image.open(run.pictures / p.file) as image:
                pixels = np.asarray(image.convert("RGBA"), np.float32) / 255
        except OSError as e:
            raise UsageError(f"{run.pictures / p.file} is missing or damaged; start the run again.") from e
        fine.append(seen(torch.from_numpy(pixels).permute(2, 0, 1), p.scale, p.centre))
    joined = torch.stack(fine).to(device)
    azimuth = torch.tensor([math.radians(p.azimuth or 0.0) for p in posed])
    elevation = torch.tensor([math.radians(p.elevation) for p in posed])
    frames = F.interpolate(joined, (size, size), mode="area")
    return References(joined, frames, make_cameras(azimuth, elevation).to(device))


def on_grey(rgba: Tensor) -> Tensor:
    """(4, S, S) straight alpha to colour on mid-grey and alpha."""
    return torch.cat([rgba[:3] * rgba[3:] + 0.5 * (1 - rgba[3:]), rgba[3:]])


def seen(rgba: Tensor, scale: float, centre: tuple[float, float]) -> Tensor:
    """(7, 256, 256) of a cut-out (4, 512, 512) as the default camera sees the object."""
    whole = torch.cat([on_grey(rgba), torch.full_like(rgba[:3], 0.5)])[None]
    shift = torch.tensor([[-centre[0] / scale, -centre[1] / scale]])
    return F.interpolate(reframed(whole, torch.tensor([scale]), shift), (FINE, FINE), mode="area")[0]
