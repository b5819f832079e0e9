"""Colour without a network: named colours and saturation of an object's base colour in CIELAB (D65).

Every pixel with alpha of at least 0.9, in every view, is named after its nearest prototype (Euclidean distance in
CIELAB, several prototypes a name). Shares are of the object's pixels, all views together.
    A chromatic colour is right if it has the largest share of all chromatic names and at least MINIMUM of the object
    (a blue fire truck may have black wheels and a grey ladder).
    White, grey or black is right if it has the largest share of all names.
Saturation is the mean chroma sqrt(a^2 + b^2) over the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from skimage.color import rgb2lab
from torch import Tensor

from app.evaluate.nouns import COLOR_WORDS

NEUTRAL = ("white", "grey", "black")
MINIMUM = 0.2
OPAQUE = 0.9

# sRGB; chosen by eye as light, middle and dark members of each name before anything was measured with them, but
# for the two darkest saturated blues, which were added when navy was read as purple
PROTOTYPES: dict[str, tuple[str, ...]] = {
    "white": ("ffffff", "e6e6e6"),
    "grey": ("b8b8b8", "8c8c8c", "606060", "8890a0"),
    "black": ("000000", "202020", "2c2c34"),
    "red": ("ff0000", "d02020", "a01010", "701010", "e05050"),
    "orange": ("ff8000", "e87020", "ffa040", "d06000"),
    "yellow": ("ffff00", "f0d020", "fff080", "c8b010"),
    "green": ("00ff00", "20a030", "106018", "80c860", "a8e0a0", "708030", "30a078"),
    "blue": ("0000ff", "2060d0", "4898e8", "102070", "0000a0", "000060", "90c8f8", "30b8d8", "406090"),
    "purple": ("8000ff", "9030a0", "500070", "a878d8", "c8a8f0", "704090"),
    "pink": ("ff60b0", "ffb0c8", "e05090", "ff90a8", "f080e0"),
    "brown": ("804018", "603010", "a87040", "402010", "c09868"),
}


def _lab(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rgb2lab(rgb))).float()


_OWNER = torch.tensor([COLOR_WORDS.index(name) for name, codes in PROTOTYPES.items() for _ in codes])
_POINTS = _lab(np.array([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for p in PROTOTYPES.values() for c in p]))


@dataclass(frozen=True)
class ColorReading:
    """`shares`: the object's area by name (COLOR_WORDS), summing to 1; `chroma`: mean CIELAB chroma (0 to about 130);
    both None if no pixel is opaque."""

    shares: dict[str, float] | None
    chroma: float | None


def name_colors(rgb: Tensor) -> Tensor:
    """(N,) indices into COLOR_WORDS of sRGB colours (N, 3) in [0, 1]."""
    return _OWNER[torch.cdist(_lab(rgb.double().numpy()), _POINTS).argmin(1)]


def read_color(frames: Tensor) -> ColorReading:
    """Colour of one object from its frames (B, 7, H, W)."""
    alpha = frames[:, 3]
    opaque = alpha >= OPAQUE
    if not bool(opaque.any()):
        return ColorReading(None, None)
    alpha = alpha[opaque][:, None]
    rgb = ((frames[:, :3].permute(0, 2, 3, 1)[opaque] - 0.5 * (1 - alpha)) / alpha).clamp(0, 1)
    counts = torch.bincount(name_colors(rgb), minlength=len(COLOR_WORDS)).double()
    shares = (counts / counts.sum()).tolist()
    chroma = _lab(rgb.double().numpy())[:, 1:].norm(dim=1).mean()
    return ColorReading(dict(zip(COLOR_WORDS, shares, strict=True)), float(chroma))


def color_is_right(reading: ColorReading, asked: str) -> bool:
    """Whether the object has the asked colour (one of COLOR_WORDS). False for an empty object."""
    if reading.shares is None:
        return False
    rivals = {n: s for n, s in reading.shares.items() if asked in NEUTRAL or n not in NEUTRAL}
    enough = asked in NEUTRAL or rivals[asked] >= MINIMUM
    return enough and rivals[asked] == max(rivals.values())
