"""How well a finished asset reproduces the pictures it was made from."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from app.evaluate.statistics import psnr
from app.export.glb import TexturedMesh
from app.export.preview import render_asset, save_png, to_linear, to_srgb
from app.pictures.intake import References
from renderers.frames import BACKGROUND
from renderers.raster import RasterizeCpuContext


@torch.no_grad()
def reproduction(
    context: RasterizeCpuContext, asset: TexturedMesh, references: References, light: Tensor, sheet: Path
) -> list[dict[str, float]]:
    """For each picture: PSNR (decibel, 256 pixels, on mid-grey) of the asset's base colour under `light` (K, 1, S, S)
    against the picture as it was cut out, and the silhouettes' intersection over union. Writes a sheet: pictures,
    renders under that light, base colours."""
    fine = references.fine.cpu()
    size, cameras = fine.shape[-1], references.cameras.to("cpu")
    base = render_asset(context, asset, cameras, size, "base_color", BACKGROUND)
    # alpha: where a black and a white ground show the same
    black, white = (render_asset(context, asset, cameras, size, "base_color", g) for g in (0.0, 1.0))
    alpha = (1 - (white - black).mean(1, keepdim=True)).clamp(0, 1)
    up = F.interpolate(light.cpu(), (size, size), mode="bilinear", align_corners=False)
    color = to_srgb((to_linear((black / alpha.clamp(min=1e-2)).clamp(0, 1)) * up).clamp(0, 1))
    lit = color * alpha + BACKGROUND * (1 - alpha)
    mine, theirs = alpha > 0.5, fine[:, 3:4] > 0.5
    overlap = (mine & theirs).flatten(1).sum(1) / (mine | theirs).flatten(1).sum(1).clamp(min=1)
    save_png(sheet, [fine[:, :3], lit, base], scale=1)
    return [
        {"psnr": round(float(p), 2), "silhouette_iou": round(float(o), 4)}
        for p, o in zip(psnr(lit, fine[:, :3]), overlap, strict=True)
    ]
