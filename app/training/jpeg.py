"""What JPEG leaves of pictures, on any device: libjpeg's tables, 4:2:0, for trainers whose frames never leave a GPU.

On a CPU app/training/photograph.py uses Pillow's own; a test compares the two.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_TABLES: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}


def tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The cosine transform (8, 8) and both quantisation tables, made once a device: a copy to a GPU waits for it."""
    if device not in _TABLES:
        k = torch.arange(8, dtype=torch.float32)
        dct = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) * 0.5
        dct[0] *= 0.5**0.5
        luma, chroma = (torch.tensor(t, dtype=torch.float32) for t in (LUMA, CHROMA))
        _TABLES[device] = (dct.to(device), luma.to(device), chroma.to(device))
    return _TABLES[device]


def jpeg(rgb: Tensor, quality: Tensor) -> Tensor:
    """rgb (B, 3, S, S), whole numbers in 0..255, S a multiple of 16, compressed at `quality` (B,) and read again."""
    dct, luma, chroma = tables(rgb.device)
    q = quality.float()
    scale = torch.where(q < 50, (5000 / q).floor(), 200 - 2 * q)[:, None, None]

    def coded(plane: Tensor, table: Tensor) -> Tensor:
        step = ((table * scale + 50) / 100).floor().clamp(1, 255)[:, None, :, None, :]
        blocks = (plane - 128).unflatten(-1, (-1, 8)).unflatten(1, (-1, 8))
        x = torch.einsum("ui,bnimj,vj->bnumv", dct, blocks, dct)
        x = (x / step).round() * step
        x = torch.einsum("ui,bnumv,vj->bnimj", dct, x, dct)
        return (x.flatten(3).flatten(1, 2) + 128).round().clamp(0, 255)

    r, g, b = rgb.unbind(1)
    y = coded((0.299 * r + 0.587 * g + 0.114 * b).round(), luma)
    cb = (-0.168735892 * r - 0.331264108 * g + 0.5 * b + 128).round()
    cr = (0.5 * r - 0.418687589 * g - 0.081312411 * b + 128).round()
    small = F.avg_pool2d(torch.stack([cb, cr], 1), 2).round()
    small = torch.stack([coded(small[:, i], chroma) for i in (0, 1)], 1)
    cb, cr = (F.interpolate(small, scale_factor=2, mode="bilinear") - 128).unbind(1)
    out = torch.stack([y + 1.402 * cr, y - 0.344136286 * cb - 0.714136286 * cr, y + 1.772 * cb], 1)
    return out.round().clamp(0, 255)
