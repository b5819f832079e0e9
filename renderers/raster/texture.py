"""`texture` with nvdiffrast's signature and conventions (Laine et al. 2020, 2011.03277, section 3.5).

Texel (i, j) has its centre at u = (j + 1/2) / W, v = (i + 1/2) / H. Where the footprint of a pixel is the ellipse with
axes from J = [du/dX du/dY; dv/dX dv/dY] in texels, the mip level is log2 of its longer half axis:

    level = 1/2 log2((A + B) / 2 + sqrt((A - B)^2 / 4 + C^2)),   A = |J_X|^2, B = |J_Y|^2, C = J_X . J_Y

and between two levels colours are interpolated linearly (Williams 1983).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from renderers.raster import texture_cpu, texture_twin
from renderers.raster.texels import BOUNDARIES, Pyramid, pyramid

FILTERS = ("auto", "nearest", "linear", "linear-mipmap-nearest", "linear-mipmap-linear")
_TINY = 1e-20  # squared texels a pixel below which a footprint is a point


def texture_construct_mip(tex: Tensor, max_mip_level: int | None = None, cube_mode: bool = False) -> list[Tensor]:
    """The levels above tex (N, H, W, C), each half as large, a mean of two by two texels; down to one texel, or to
    `max_mip_level`.

    A side of one texel stays. Differentiable in tex. Raises ValueError for a level with an odd side above one (make
    sides powers of two, or limit the level), and for cube maps.
    """
    if cube_mode:
        raise ValueError("Cube maps are not supported: leave cube_mode out, and unwrap the texture to (N, H, W, C).")
    if tex.ndim != 4 or not tex.numel():
        raise ValueError(f"tex must be (N, H, W, C) and not empty, got {tuple(tex.shape)}.")
    if max_mip_level is not None and max_mip_level < 0:
        raise ValueError(f"max_mip_level must be at least 0, got {max_mip_level}.")
    levels, level = list[Tensor](), tex
    while max(level.shape[1:3]) > 1 and (max_mip_level is None or len(levels) < max_mip_level):
        n, h, w, c = level.shape
        if (h > 1 and h % 2) or (w > 1 and w % 2):
            raise ValueError(
                f"Level {len(levels)} of the texture is {h} x {w}, which cannot be halved: make its sides powers of "
                f"two, or give max_mip_level={len(levels)}."
            )
        by, bx = min(h, 2), min(w, 2)
        level = level.reshape(n, h // by, by, w // bx, bx, c).mean((2, 4))
        levels.append(level)
    return levels


def mip_level(uv_da: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W): the level of footprints uv_da (B, H, W, 4) = (du/dX, du/dY, dv/dX, dv/dY) on a texture of height x
    width texels; differentiable, -33 where a footprint has no size."""
    x = uv_da[..., 0::2] * uv_da.new_tensor([width, height])
    y = uv_da[..., 1::2] * uv_da.new_tensor([width, height])
    a, b, c = (x * x).sum(-1), (y * y).sum(-1), (x * y).sum(-1)
    root = 0.25 * (a - b) ** 2 + c * c
    round_ = root < _TINY * _TINY  # a circle: the longer axis is either, and the root has no gradient
    major = 0.5 * (a + b) + torch.where(round_, 0, torch.where(round_, 1, root).sqrt())
    point = major < _TINY
    return 0.5 * torch.where(point, _TINY, torch.where(point, 1, major)).log2()


def texture(
    tex: Tensor,
    uv: Tensor,
    uv_da: Tensor | None = None,
    mip_level_bias: Tensor | None = None,
    mip: Sequence[Tensor] | None = None,
    filter_mode: str = "auto",
    boundary_mode: str = "wrap",
    max_mip_level: int | None = None,
) -> Tensor:
    """Look up tex (B or 1, Ht, Wt, C) at uv (B, H, W, 2); returns (B, H, W, C).

    uv_da: (B, H, W, 4), uv's image-space derivatives as `interpolate` returns them for diff_attrs=[0, 1].
    mip_level_bias: (B, H, W), added to the level; without uv_da it is the level. mip: the levels above tex, from
    `texture_construct_mip`, which is called if they are left out. filter_mode: nearest, linear,
    linear-mipmap-nearest, linear-mipmap-linear; auto is the last where uv_da or a bias is given, else linear.
    boundary_mode: wrap, clamp, or zero (what is outside is 0).

    Gradients flow to tex (through mip too), uv, uv_da and mip_level_bias; nearest has none for uv, and
    linear-mipmap-nearest none for the level. float32 or float64, one type for all.

    On CPU tensors a numba kernel looks up, on other devices its torch twin. Raises ValueError for cube maps and for
    anything else that does not fit.
    """
    if boundary_mode == "cube" or tex.ndim == 5:
        raise ValueError("Cube maps are not supported: give tex as (B, H, W, C) and a boundary_mode of wrap or clamp.")
    if boundary_mode not in BOUNDARIES:
        raise ValueError(f"boundary_mode must be {', '.join(BOUNDARIES)}, got {boundary_mode!r}.")
    if filter_mode not in FILTERS:
        raise ValueError(f"filter_mode must be {', '.join(FILTERS)}, got {filter_mode!r}.")
    if filter_mode == "auto":
        filter_mode = "linear" if uv_da is None and mip_level_bias is None else "linear-mipmap-linear"
    mipmapped = "mipmap" in filter_mode
    _check(tex, uv, uv_da, mip_level_bias, mipmapped)
    if not mipmapped:
        return _look_up(pyramid([tex]), uv, None, filter_mode == "nearest", boundary_mode)

    above = texture_construct_mip(tex, max_mip_level) if mip is None else list(mip)[:max_mip_level]
    levels = pyramid([tex, *above])
    level = uv.new_zeros(uv.shape[:3]) if uv_da is None else mip_level(uv_da, *tex.shape[1:3])
    level = level if mip_level_bias is None else level + mip_level_bias
    level = level.clamp(0, len(above))
    if filter_mode == "linear-mipmap-nearest":
        level = (level.detach() + 0.5).floor().clamp(max=len(above))
    return _look_up(levels, uv, level, False, boundary_mode)


def _check(tex: Tensor, uv: Tensor, uv_da: Tensor | None, bias: Tensor | None, mipmapped: bool) -> None:
    if tex.ndim != 4 or not tex.numel():
        raise ValueError(f"tex must be (B, H, W, C) and not empty, got {tuple(tex.shape)}.")
    if uv.ndim != 4 or uv.shape[3] != 2 or tex.shape[0] not in (1, uv.shape[0]):
        raise ValueError(f"uv must be (B, H, W, 2) with tex's B or any of one, got {tuple(uv.shape)}.")
    for name, given, shape in (("uv_da", uv_da, (*uv.shape[:3], 4)), ("mip_level_bias", bias, uv.shape[:3])):
        if given is not None and tuple(given.shape) != tuple(shape):
            raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(given.shape)}.")
    if mipmapped and uv_da is None and bias is None:
        raise ValueError("Mip levels need uv_da or mip_level_bias; give one, or use filter_mode='linear'.")
    given = [x for x in (tex, uv, uv_da, bias) if x is not None]
    if tex.dtype not in (torch.float32, torch.float64) or any(x.dtype != tex.dtype for x in given):
        raise ValueError(f"all must be float32, or all float64, got {[str(x.dtype) for x in given]}.")


def _look_up(levels: Pyramid, uv: Tensor, level: Tensor | None, nearest: bool, boundary: str) -> Tensor:
    backend = texture_cpu if uv.device.type == "cpu" else texture_twin
    return backend.look_up(levels, uv, level, nearest, boundary)
