"""What is lost between the optimised shape and the file: `python -m benchmarks.readback RUN...`.

The shape of each finished run, as its checkpoints have it, against its mesh.glb, read back: base colour without light
at 128 pixels from 16 views. PSNR inside the union of both masks, intersection over union of the silhouettes.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch

from app.export.glb import read_glb
from app.meshes.unfinished import as_it_is
from app.recipe_yaml import load_recipe
from benchmarks.single_view import asset_frames
from renderers.cameras import Cameras, make_cameras
from renderers.mesh import render_mesh
from renderers.raster import RasterizeCpuContext

SIZE = 128


def sixteen() -> Cameras:
    """Eight around at elevation 0, eight at 30 degrees."""
    k = torch.arange(16)
    return make_cameras(k * (math.pi / 4), torch.where(k < 8, 0.0, math.radians(30)))


def written(path: Path) -> torch.Tensor:
    """Frames of the file: its colours as viewers filter its texture, its silhouettes as the shape's are drawn."""
    frames, mesh = asset_frames(path, sixteen(), SIZE), read_glb(path)
    grey = torch.full_like(mesh.vertices, 0.5)
    drawn = render_mesh(RasterizeCpuContext(), mesh.vertices, mesh.faces, sixteen(), SIZE, grey, supersample=2)
    return torch.cat([frames[:, :3], drawn.alpha, frames[:, 4:]], 1)


def compared(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """(PSNR, IoU), means over views of frames (B, 7, S, S)."""
    one, other = a[:, 3] > 0.5, b[:, 3] > 0.5
    union = (one | other).float()
    error = ((a[:, :3] - b[:, :3]).square().mean(1) * union).flatten(1).sum(1) / union.flatten(1).sum(1).clamp(min=1)
    iou = (one & other).flatten(1).sum(1) / union.flatten(1).sum(1).clamp(min=1)
    return float((-10 * error.clamp(min=1e-10).log10()).mean()), float(iou.mean())


def main() -> None:
    rows = []
    for folder in map(Path, sys.argv[1:]):
        with as_it_is(folder, load_recipe(folder / "config.yaml")) as (_, shape):
            mine = shape.frames(sixteen(), SIZE)
        rows.append(compared(mine, written(folder / "mesh.glb")))
        print(f"{folder.name}: PSNR {rows[-1][0]:.1f}, IoU {rows[-1][1]:.4f}", flush=True)
    found = np.array(rows)
    for name, column in (("PSNR", found[:, 0]), ("IoU", found[:, 1])):
        print(f"{len(rows)} runs, {name}: least {column.min():.3f}, median {np.median(column):.3f}")


if __name__ == "__main__":
    main()
