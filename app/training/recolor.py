"""Other colours for real objects: random affine maps of sRGB for the trainer, and known colours for measuring colour.

Kinds of maps: hue rotated about the grey axis with another saturation and contrast; grey; luminance tinted by one
random colour; channels permuted.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor

from app.evaluate.color import NEUTRAL, name_colors, read_color
from app.evaluate.nouns import COLOR_WORDS
from app.evaluate.views import Mesh, coloured_frames, own_cameras

LUMA = (0.299, 0.587, 0.114)


def hue_matrix(angle: Tensor, saturation: Tensor) -> Tensor:
    """(B, 3, 3): rotation by `angle` (B,) about the grey axis, chroma times `saturation` (B,); greys stay."""
    grey = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    c, s = (angle.cos() * saturation)[:, None, None], (angle.sin() * saturation)[:, None, None]
    return grey + c * (torch.eye(3) - grey) + s * cross


def random_color_maps(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` maps: colour -> matrix (3, 3) @ colour + offset (3,), to be clipped to [0, 1]."""
    u = torch.rand(count, 8, generator=generator)
    matrix = hue_matrix((u[:, 0] - 0.5) * 2 * math.pi, 0.3 + 1.3 * u[:, 1])
    mild = hue_matrix((u[:, 0] - 0.5) * 0.5, 0.7 + 0.6 * u[:, 1])
    luma = torch.tensor(LUMA).expand(3, 3)
    tint = u[:, 2:5, None] * 1.6 * luma  # every channel is luminance times the tint's
    kind = u[:, 5, None, None]
    matrix = torch.where(kind < 0.3, mild, matrix)
    matrix = torch.where((kind >= 0.6) & (kind < 0.85), tint, matrix)
    matrix = torch.where(kind >= 0.85, luma, matrix)
    contrast, bright = 0.7 + 0.6 * u[:, 6], (u[:, 7] - 0.5) * 0.3
    offset = (0.5 * (1 - contrast) + bright)[:, None].expand(count, 3)
    return matrix * contrast[:, None, None], offset


# CSS named colours, by everyday name: other shades than the prototypes that color.py compares with
CSS: dict[str, tuple[str, ...]] = {
    "white": ("fffafa", "f5f5f5"),
    "black": ("000000", "111111"),
    "grey": ("696969", "a9a9a9"),
    "red": ("dc143c", "b22222"),
    "orange": ("ff8c00", "ffa500"),
    "yellow": ("ffd700", "f0e68c"),
    "green": ("228b22", "32cd32", "2e8b57"),
    "blue": ("4169e1", "1e90ff", "191970"),
    "purple": ("4b0082", "9932cc", "9370db"),
    "pink": ("ff69b4", "ffb6c1", "ff1493"),
    "brown": ("8b4513", "a0522d"),
}


def repaint(mesh: Mesh, target: str) -> Mesh:
    """A mesh whose dominant colour has become `target` ("rrggbb"), shades and other parts kept.

    Dominant: the colour name with the largest share of the evaluator's views, of the chromatic ones if any of them has
    a fifth. Its vertices get the target's CIELAB a and b, and its L plus 0.6 of their own deviation from their mean.
    """
    vertices, normals, colors, faces = mesh
    shares = read_color(coloured_frames(mesh, own_cameras())).shares or {}
    chromatic = {w: s for w, s in shares.items() if w not in NEUTRAL and s >= 0.2}
    dominant = COLOR_WORDS.index(max(chromatic or shares, key=(chromatic or shares).__getitem__))
    names = name_colors(torch.from_numpy(np.ascontiguousarray(colors)))
    mine = (names == dominant).numpy()
    lab = rgb2lab(colors[mine].astype(np.float64))
    goal = rgb2lab(np.array([int(target[i : i + 2], 16) / 255 for i in (0, 2, 4)]))
    new = np.stack([goal[0] + 0.6 * (lab[:, 0] - lab[:, 0].mean()), *(np.full(len(lab), g) for g in goal[1:])], 1)
    out = colors.copy()
    out[mine] = lab2rgb(new.clip([0, -128, -128], [100, 127, 127])).clip(0, 1).astype(np.float32)
    return vertices, normals, out, faces
