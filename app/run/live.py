"""The object while it grows: a small turntable of what the running stage has now, for the web page.

It is rendered from the parameters as they are and changes nothing of the run.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from app.export.glb import write_atomically
from app.export.preview import BACKGROUND, light, to_bytes, to_linear, to_srgb
from renderers.cameras import Cameras, orbit
from renderers.frames import Rendered

Look = Callable[[Cameras], Rendered]
VIEWS, ELEVATION, SIZE = 12, math.radians(20), 256
FRAME_MS = 120


@torch.no_grad()
def shaded(rendered: Rendered) -> Tensor:
    """(B, 3, H, W) in [0, 1]: colour under the previews' light, on their grey."""
    alpha = rendered.alpha.clamp(0, 1)
    color = (rendered.color / alpha.clamp(min=1e-3)).clamp(0, 1)
    b, _, h, w = color.shape
    normal = rendered.normal / alpha.clamp(min=1e-3)
    irradiance = light(normal.permute(0, 2, 3, 1).reshape(-1, 3)).reshape(b, h, w, 1).permute(0, 3, 1, 2)
    lit = (to_linear(color) * irradiance).clamp(0, 1)
    return to_srgb(lit * alpha + float(to_linear(torch.tensor(BACKGROUND))) * (1 - alpha))


@torch.no_grad()
def save_turntable(path: Path, look: Look, device: torch.device | str = "cpu") -> None:
    """An animated WebP of 12 views, enlarged to 256 pixels, replaced at once."""
    pictures = to_bytes(shaded(look(orbit(VIEWS, ELEVATION, device=device))))
    frames = [Image.fromarray(p).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for p in pictures]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=80, method=0
    )
    write_atomically(path, buffer.getvalue())
