"""The reference view: a picture supervises the side it shows, as in Zero123 (2303.11328) and Magic123 (2306.17843).

A picture is base colour times light. Of the light a smooth part is estimated, from the base colour b that the prior
predicts for the same view, both in linear luminance Y and blurred (G) within the silhouette alpha:

    light = G(alpha Y(picture)) / G(alpha Y(b)),      unlit = picture / light

Flat light is the limit of an infinite blur. Hue is the picture's own. What is optimised is then pulled to unlit colour
and alpha, in the prior's own scale (x = 2 frame - 1), so that a weight of 1 is the pull of one frame's guidance:

    L = (1 / 2 K) sum over pictures and pixels of  w_c alpha |x_c - x_c*|^2 + w_a |x_a - x_a*|^2
"""

from __future__ import annotations

import warnings
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
PALETTE = 10  # colours that a picture is taken to have
TOLERANCE = 12.0  # CIELAB


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


@torch.no_grad()
def with_palette(frames: Tensor, picture: Tensor, share: float, colors: int = PALETTE) -> Tensor:
    """Frames (V, 7, S, S) whose colours are drawn towards those of an unlit picture (7, S, S).

    The picture's opaque pixels are gathered into `colors` means p_k (k-means in CIELAB, started evenly along
    lightness). A pixel of colour c becomes (1 - share) c + share sum_k w_k p_k, w_k ~ exp(-|c - p_k|^2 / (2 d^2)),
    d = TOLERANCE: a weak prior knows where light and dark parts go, but makes up hues that the object does not have.
    """
    alpha = frames[:, 3:4]
    lab = to_lab(opaque(frames[:, :3], alpha))
    solid = picture[3] > 0.9
    if share == 0 or not bool(solid.any()):
        return frames
    known = to_lab(opaque(picture[None, :3], picture[None, 3:4]))[0][:, solid].T
    order = known[known[:, 0].argsort()]
    means = order[torch.linspace(0, len(order) - 1, colors, device=order.device).round().long()]
    for _ in range(12):
        nearest = torch.cdist(known, means).argmin(1)
        counts = torch.bincount(nearest, minlength=colors).clamp(min=1)
        sums = torch.zeros_like(means).index_add(0, nearest, known)
        means = torch.where((torch.bincount(nearest, minlength=colors) > 0)[:, None], sums / counts[:, None], means)
    pixels = lab.permute(0, 2, 3, 1)
    weight = torch.softmax(-torch.cdist(pixels.reshape(-1, 3), means).square() / (2 * TOLERANCE**2), 1)
    drawn = (weight @ means).reshape(pixels.shape)
    color = from_lab(torch.lerp(pixels, drawn, share).permute(0, 3, 1, 2))
    return torch.cat([color * alpha + BACKGROUND * (1 - alpha), frames[:, 3:]], 1)


def to_lab(color: Tensor) -> Tensor:
    """CIELAB (B, 3, H, W) of sRGB-encoded colours in [0, 1]."""
    from skimage.color import rgb2lab

    return torch.from_numpy(rgb2lab(color.cpu().numpy(), channel_axis=1)).to(color)


def from_lab(lab: Tensor) -> Tensor:
    """The inverse, clipped to [0, 1]."""
    from skimage.color import lab2rgb

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of colours outside sRGB, which are clipped
        return torch.from_numpy(lab2rgb(lab.cpu().numpy(), channel_axis=1)).to(lab).clamp(0, 1)


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
