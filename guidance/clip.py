"""Gradient clipping, orthogonal to the method: by element and by pixel.

by element (D-SDS, 2303.15413)   g <- clamp(g, -c, c), after the weight w(t)
by pixel   (PGC, 2310.12474)     g[:, p] <- g[:, p] min(1, c / max over channels |g[:, p]|): keeps its direction
"""

from __future__ import annotations

from torch import Tensor


def clip_elements(g: Tensor, bound: float) -> Tensor:
    """g of any shape, each element within [-bound, bound]."""
    return g.clamp(-bound, bound)


def clip_pixels(g: Tensor, bound: float) -> Tensor:
    """g (B, C, H, W), each pixel scaled down so that no channel exceeds `bound`."""
    largest = g.abs().amax(1, keepdim=True)
    return g * (bound / largest.clamp(min=bound))
