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

from app.evaluate.statistics import psnr_in_masks
from app.export.glb import TexturedMesh, read_glb
from app.export.preview import render_asset
from app.meshes.unfinished import as_it_is
from app.recipe_yaml import load_recipe
from renderers.cameras import Cameras, make_cameras
from renderers.mesh import render_mesh
from renderers.raster import RasterizeCpuContext

SIZE = 128


def sixteen() -> Cameras:
    """Eight around at elevation 0, eight at 30 degrees."""
    k = torch.arange(16)
    return make_cameras(k * (math.pi / 4), torch.where(k < 8, 0.0, math.radians(30)))


def read_back(mesh: TexturedMesh) -> torch.Tensor:
    """(16, 4, SIZE, SIZE): unlit colours on mid-grey, filtered as viewers do; silhouettes as a shape's are drawn."""
    context, cameras, grey = RasterizeCpuContext(), sixteen(), torch.full_like(mesh.vertices, 0.5)
    colors = render_asset(context, mesh, cameras, SIZE, "base_color", background=0.5)
    drawn = render_mesh(context, mesh.vertices, mesh.faces, cameras, SIZE, grey, supersample=2)
    return torch.cat([colors, drawn.alpha], 1)


def main() -> None:
    rows = []
    for folder in map(Path, sys.argv[1:]):
        with as_it_is(folder, load_recipe(folder / "config.yaml")) as (_, shape):
            mine = shape.frames(sixteen(), SIZE)
        rows.append([float(x.mean()) for x in psnr_in_masks(mine, read_back(read_glb(folder / "mesh.glb")))])
        print(f"{folder.name}: PSNR {rows[-1][0]:.1f}, IoU {rows[-1][1]:.4f}", flush=True)
    found = np.array(rows)
    for name, column in (("PSNR", found[:, 0]), ("IoU", found[:, 1])):
        print(f"{len(rows)} runs, {name}: least {column.min():.3f}, median {np.median(column):.3f}")


if __name__ == "__main__":
    main()
