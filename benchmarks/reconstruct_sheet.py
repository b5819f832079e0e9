"""The picture of docs/reconstruct.md: `python -m benchmarks.reconstruct_sheet DOCS_PICTURE`.

Inputs of our own: objects modelled in code (tests/objects.py), lit and composited like photographs by
benchmarks/single_view_scenes.py's means. A row each: the input, then the exported file from eight sides.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from app.export.glb import read_glb
from app.export.preview import render_asset, save_png
from app.pipeline import generate
from app.recipes import picture_preset
from app.reconstruct import picture_recipe, prepare
from app.run.progress import Progress
from app.training.photograph import photograph
from benchmarks.single_view_scenes import background
from renderers.cameras import make_cameras, orbit
from renderers.raster import RasterizeCpuContext
from renderers.snapshot import snapshots
from tests.objects import OBJECTS, Mesh, sphere, sword, table

SIZE, SHOWN = 256, 96
SHEET: dict[str, Mesh] = {**OBJECTS, "a table": table(), "a sword": sword(), "a ball": sphere(0.9)}


def picture_of(mesh: Mesh, path: Path, azimuth: float, elevation: float) -> Path:
    """A lit JPEG of an object modelled in code, seen from there (radians)."""
    g = torch.Generator().manual_seed(7)
    camera = make_cameras(torch.tensor([azimuth]), torch.tensor([elevation]))
    frame = torch.from_numpy(snapshots([mesh], camera, SIZE))
    lit, alpha = photograph(frame, g)[0, :3], frame[0, 3:4]
    ground = background(SIZE, g, busy=False)
    pixels = (lit - 0.5 * (1 - alpha)) + ground * (1 - alpha)
    Image.fromarray((pixels.clamp(0, 1) * 255 + 0.5).byte().permute(1, 2, 0).numpy()).save(path, quality=90)
    return path


def main() -> None:
    rows = []
    with TemporaryDirectory() as folder:
        for k, (name, mesh) in enumerate(SHEET.items()):
            picture = picture_of(mesh, Path(folder) / f"{name}.jpg", math.radians(35 + 40 * k), math.radians(20))
            recipe = picture_recipe(picture_preset("draft"), 1)
            run = prepare([picture], recipe, Path(folder) / name)
            generate(recipe, run, Progress())
            with Image.open(picture) as image:
                small = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
            seen = F.interpolate(small, (SHOWN, SHOWN), mode="area")
            asset = read_glb(run.folder / "mesh.glb")
            rows.append(torch.cat([seen, render_asset(RasterizeCpuContext(), asset, orbit(8), SHOWN, "lit")]))
    save_png(Path(sys.argv[1]), rows, scale=1)


if __name__ == "__main__":
    main()
