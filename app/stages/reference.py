"""The reference view: a picture supervises the side it shows, as in Zero123 (2303.11328) and Magic123 (2306.17843).

A picture is base colour times light. Of the light a smooth part is estimated, from the base colour b that the prior
predicts for the same view, both in linear luminance Y and blurred (G) within the silhouette alpha:

    light = G(alpha Y(picture)) / G(alpha Y(b)),      unlit = picture / light

Flat light is the limit of an infinite blur. Hue is the picture's own. What is optimised is then pulled to unlit colour
and alpha, in the prior's own scale (x = 2 frame - 1), so that a weight of 1 is the pull of one frame's guidance:

    L = (1 / 2 K) sum over pictures and pixels of  w_c alpha |x_c - x_c*|^2 + w_a |x_a - x_a*|^2
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from app.export.preview import to_linear, to_srgb
from app.recipes import PictureRecipe
from renderers.cameras import Cameras
from renderers.frames import BACKGROUND, Rendered

BLUR = 0.15  # standard deviation of G, in sides of the picture
DARKEST, BRIGHTEST = 0.3, 3.0  # what light is believed


def blur(x: Tensor, sigma: float) -> Tensor:
    """A separable Gaussian of standard deviation `sigma` pixels over (B, C, H, W), nothing around the picture."""
    radius = max(1, round(2.5 * sigma))
    k = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device) / sigma) ** 2)
    k = (k / k.sum()).expand(x.shape[1], 1, -1)
    x = F.conv2d(x, k[..., None], padding=(radius, 0), groups=x.shape[1])
    return F.conv2d(x, k[:, :, None], padding=(0, radius), groups=x.shape[1])


def opaque(color: Tensor, alpha: Tensor) -> Tensor:
    """Colour without the mid-grey it was composited on."""
    return ((color - (1 - alpha) * BACKGROUND) / alpha.clamp(min=1e-2)).clamp(0, 1)


def luminance(linear: Tensor) -> Tensor:
    """(B, 1, H, W) of linear sRGB primaries."""
    return (linear * linear.new_tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(1, keepdim=True)


@torch.no_grad()
def light_of(picture: Tensor, base: Tensor, sigma: float = BLUR) -> Tensor:
    """(K, 1, S, S): the smooth light of pictures (K, 7, S, S) whose base colour is that of frames (K, 7, S, S)."""
    alpha = picture[:, 3:4]
    both = alpha * base[:, 3:4]
    pixels = sigma * picture.shape[-1]
    seen, true = (luminance(to_linear(opaque(x[:, :3], x[:, 3:4]))) for x in (picture, base))
    ratio = blur(both * seen, pixels) / blur(both * true, pixels).clamp(min=1e-4)
    return ratio.clamp(DARKEST, BRIGHTEST)


@torch.no_grad()
def unlit(picture: Tensor, light: Tensor) -> Tensor:
    """Pictures (K, 7, F, F) with `light` (K, 1, S, S) taken out; alpha and the rest as they are."""
    light = F.interpolate(light, picture.shape[-2:], mode="bilinear", align_corners=False)
    alpha = picture[:, 3:4]
    color = to_srgb((to_linear(opaque(picture[:, :3], alpha)) / light).clamp(0, 1))
    return torch.cat([color * alpha + BACKGROUND * (1 - alpha), picture[:, 3:]], 1)


def reference_loss(rendered: Rendered, target: Tensor, weight_color: float, weight_alpha: float) -> Tensor:
    """The scalar L above; `target` (K, 7, S, S) unlit, at the render's own size."""
    frames = rendered.frames()
    off = 2 * (frames[:, :4] - target[:, :4])
    color = (target[:, 3:4] * off[:, :3].square()).sum()
    return 0.5 * (weight_color * color + weight_alpha * off[:, 3:].square().sum()) / len(target)


@dataclass(frozen=True)
class Anchor:
    """The pictures' pull in a distillation: their cameras and unlit `target` (K, 7, S, S), and the weights' fall."""

    cameras: Cameras
    target: Tensor
    recipe: PictureRecipe

    def loss(self, rendered: Rendered, progress: float) -> Tensor:
        """`reference_loss` at `progress` in [0, 1], where the weights have fallen linearly to weight_end of them."""
        r = self.recipe
        fall = 1 - progress * (1 - r.weight_end)
        return reference_loss(rendered, self.target, fall * r.weight_color, fall * r.weight_alpha)
