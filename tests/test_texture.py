"""The texture verb: formulas, kernel against twin in values and gradients, rasterize's derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from renderers.raster import (
    RasterizeCpuContext,
    interpolate,
    rasterize,
    texture,
    texture_construct_mip,
    texture_cpu,
    texture_twin,
)
from renderers.raster.texels import pyramid
from renderers.raster.texture import mip_level

BOUNDARIES = ("wrap", "clamp", "zero")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=rng(seed), dtype=torch.float64)


def at(*uv: tuple[float, float]) -> Tensor:
    return torch.tensor(uv, dtype=torch.float64)[None, None]


def test_texel_centres_boundaries_and_filters() -> None:
    """A 2 x 2 texture with rows (0, 1) and (2, 3): by hand."""
    tex = torch.tensor([[0.0, 1], [2, 3]], dtype=torch.float64)[None, :, :, None]
    centres = at((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75), (0.5, 0.5))
    assert texture(tex, centres)[0, 0, :, 0].tolist() == [0, 1, 2, 3, 1.5]
    assert texture(tex, at((0.49, 0.1), (0.51, 0.1)), filter_mode="nearest")[0, 0, :, 0].tolist() == [0, 1]
    edge = at((0.0, 0.25), (1.25, 0.25), (-3.0, 0.25))
    assert texture(tex, edge, boundary_mode="wrap")[0, 0, :, 0].tolist() == [0.5, 0, 0.5]
    assert texture(tex, edge, boundary_mode="clamp")[0, 0, :, 0].tolist() == [0, 1, 0]
    assert texture(tex + 1, edge, boundary_mode="zero")[0, 0, :, 0].tolist() == [0.5, 0, 0]
    assert texture(tex + 1, edge, filter_mode="nearest", boundary_mode="zero")[0, 0, :, 0].tolist() == [1, 0, 0]


def test_levels_are_means_and_a_wide_footprint_sees_them() -> None:
    tex = noise(2, 8, 4, 3)
    mip = texture_construct_mip(tex)
    assert [tuple(x.shape) for x in mip] == [(2, 4, 2, 3), (2, 2, 1, 3), (2, 1, 1, 3)]
    torch.testing.assert_close(mip[-1][:, 0, 0], tex.mean((1, 2)))
    uv = noise(2, 5, 5, 2, seed=1)
    whole = torch.zeros(2, 5, 5, 4, dtype=torch.float64)
    whole[..., 0] = whole[..., 3] = 1.0  # a pixel as wide as the texture
    torch.testing.assert_close(texture(tex, uv, whole), tex.mean((1, 2))[:, None, None].expand(2, 5, 5, 3))
    torch.testing.assert_close(texture(tex, uv, whole * 0), texture(tex, uv), msg="no footprint: level 0")
    torch.testing.assert_close(texture(tex, uv, whole, max_mip_level=0), texture(tex, uv))
    half = torch.full((2, 5, 5), 0.5, dtype=torch.float64)
    between = (texture(tex, uv) + texture(mip[0], uv)) / 2
    torch.testing.assert_close(texture(tex, uv, mip_level_bias=half), between)
    nearest = texture(tex, uv, mip_level_bias=half - 0.1, filter_mode="linear-mipmap-nearest")
    torch.testing.assert_close(nearest, texture(tex, uv))


def test_the_level_is_that_of_the_longer_axis_however_it_is_turned() -> None:
    long, short = 8.0, 0.5
    for angle in torch.linspace(0, 3, 7, dtype=torch.float64):
        c, s = angle.cos(), angle.sin()
        texels = torch.stack([long * c, -short * s, long * s, short * c])  # du/dX, du/dY, dv/dX, dv/dY
        da = (texels / torch.tensor([64.0, 64, 32, 32], dtype=torch.float64))[None, None, None]
        assert float(mip_level(da, 32, 64)) == pytest.approx(3.0)
    circle = torch.tensor([4.0, 0, 0, 4], dtype=torch.float64, requires_grad=True)
    level = mip_level(circle[None, None, None], 1, 1)
    level.sum().backward()
    assert float(level.detach()) == pytest.approx(2.0) and circle.grad is not None and circle.grad.isfinite().all()


def lookups() -> list[tuple[str, str, bool]]:
    return list(itertools.product(("nearest", "linear", "mixed"), BOUNDARIES, (False, True)))


@pytest.mark.parametrize(("kind", "boundary", "shared"), lookups())
def test_the_kernel_and_its_twin_agree_in_values_and_gradients(kind: str, boundary: str, shared: bool) -> None:
    tex = noise(1 if shared else 3, 8, 16, 4).requires_grad_()
    uv = (noise(3, 7, 9, 2, seed=1) * 3 - 1).requires_grad_()
    level = (noise(3, 7, 9, seed=2) * 4).requires_grad_() if kind == "mixed" else None
    weights = noise(3, 7, 9, 4, seed=3)
    answers = []
    for backend in (texture_cpu, texture_twin):
        levels = pyramid([tex, *texture_construct_mip(tex)])
        out = backend.look_up(levels, uv, level, kind == "nearest", boundary)
        wanted = [tex, *([] if kind == "nearest" else [uv]), *([] if level is None else [level])]
        answers.append((out, *torch.autograd.grad((out * weights).sum(), wanted)))
    for fast, plain in zip(*answers, strict=True):
        torch.testing.assert_close(fast, plain)
        assert float(plain.detach().abs().max()) > 0.1


@pytest.mark.parametrize("mode", ["linear", "linear-mipmap-nearest", "linear-mipmap-linear"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_gradients_are_those_of_finite_differences(mode: str, boundary: str) -> None:
    tex, uv = noise(1, 4, 8, 2).requires_grad_(), (noise(2, 3, 3, 2, seed=4) * 1.6 - 0.3).requires_grad_()
    da, bias = (0.25 * noise(2, 3, 3, 4, seed=5)).requires_grad_(), (noise(2, 3, 3, seed=6) - 0.5).requires_grad_()

    def work(tex: Tensor, uv: Tensor, da: Tensor, bias: Tensor) -> Tensor:
        return texture(tex, uv, da, bias, filter_mode=mode, boundary_mode=boundary)

    if mode == "linear":
        assert torch.autograd.gradcheck(lambda tex, uv: texture(tex, uv, boundary_mode=boundary), (tex, uv))
    elif mode == "linear-mipmap-nearest":
        assert torch.autograd.gradcheck(lambda tex, uv: work(tex, uv, da.detach(), bias.detach()), (tex, uv))
    else:
        assert torch.autograd.gradcheck(work, (tex, uv, da, bias))


def test_what_is_no_number_reads_no_memory_of_others() -> None:
    uv = at((float("nan"), 0.5), (float("inf"), 0.5), (1e30, -1e30))
    for boundary, mode in itertools.product(BOUNDARIES, ("nearest", "linear")):
        out = texture(torch.ones(1, 4, 4, 1, dtype=torch.float64), uv, filter_mode=mode, boundary_mode=boundary)
        assert ((out >= 0) & (out <= 1)).all()


def test_the_same_threads_give_the_same_bytes() -> None:
    tex, uv = noise(1, 16, 16, 3).float().requires_grad_(), noise(2, 32, 32, 2, seed=1).float()
    grads = [torch.autograd.grad(texture(tex, uv).square().sum(), tex)[0] for _ in range(3)]
    assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2])


def test_rasterized_derivatives_are_those_of_the_neighbouring_pixels() -> None:
    """A textured floor in perspective: du/dX and its like against central differences of interpolated uv."""
    pos = torch.tensor([[[-1.0, -0.9, 0, 1], [1, -0.9, 0, 1], [1, 1.6, 0.4, 2.2], [-1, 1.6, 0.4, 2.2]]])
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    rast, db = rasterize(RasterizeCpuContext(), pos, tri, (48, 40), grad_db=True)
    at, da = interpolate(uv, rast, tri, db, diff_attrs="all")
    inner = (rast[:, 1:-1, :-2, 3] == rast[:, 1:-1, 2:, 3]) & (rast[:, :-2, 1:-1, 3] == rast[:, 2:, 1:-1, 3])
    inner &= (rast[:, 1:-1, 1:-1, 3] > 0) & (rast[:, 1:-1, :-2, 3] == rast[:, :-2, 1:-1, 3])
    inner &= rast[:, 1:-1, 1:-1, 3] == rast[:, 1:-1, :-2, 3]
    along_x, along_y = (at[:, 1:-1, 2:] - at[:, 1:-1, :-2]) / 2, (at[:, 2:, 1:-1] - at[:, :-2, 1:-1]) / 2
    numeric = torch.stack([along_x, along_y], -1)[inner]
    assert len(numeric) > 200
    torch.testing.assert_close(da[:, 1:-1, 1:-1].unflatten(-1, (2, 2))[inner], numeric, rtol=0.02, atol=2e-4)
    some, chosen = interpolate(uv, rast, tri, db, diff_attrs=[1])
    assert torch.equal(some, at) and torch.equal(chosen, da[..., 2:])
    assert (da[rast[..., 3] == 0] == 0).all()


def test_derivatives_pass_gradients_to_positions() -> None:
    tri = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    pos = torch.tensor([[[-0.9, -0.8, 0.1, 1.0], [0.8, -0.7, 0.2, 1.3], [0.1, 0.9, 0.0, 0.9]]])

    def total(p: Tensor) -> Tensor:
        _, db = rasterize(RasterizeCpuContext(), p, tri, (8, 8), grad_db=True)
        return db.double().square().sum()

    moved = pos.clone().requires_grad_()
    (g,) = torch.autograd.grad(total(moved), moved)
    for v, c in ((0, 0), (1, 3), (2, 1)):
        step = torch.zeros_like(pos)
        step[0, v, c] = 2e-3
        slope = (total(pos + step) - total(pos - step)) / 4e-3
        assert float(g[0, v, c]) == pytest.approx(float(slope), rel=0.02)


def bad() -> dict[str, Callable[[], object]]:
    tex, uv = torch.zeros(1, 4, 4, 3), torch.zeros(1, 2, 2, 2)
    return {
        "Cube maps": lambda: texture(torch.zeros(1, 6, 4, 4, 3), uv, boundary_mode="cube"),
        "unwrap": lambda: texture_construct_mip(tex, cube_mode=True),
        "filter_mode must be": lambda: texture(tex, uv, filter_mode="cubic"),
        "boundary_mode must be": lambda: texture(tex, uv, boundary_mode="mirror"),
        "need uv_da": lambda: texture(tex, uv, filter_mode="linear-mipmap-linear"),
        "uv must be": lambda: texture(torch.zeros(3, 4, 4, 3), uv),
        "uv_da must be": lambda: texture(tex, uv, torch.zeros(1, 2, 2, 2)),
        "all must be float32": lambda: texture(tex.double(), uv),
        "cannot be halved": lambda: texture_construct_mip(torch.zeros(1, 6, 4, 3)),
        "mip level 1 must be": lambda: texture(tex, uv, torch.zeros(1, 2, 2, 4), mip=[torch.zeros(1, 2, 2, 1)]),
    }


@pytest.mark.parametrize("what", bad())
def test_what_does_not_fit_is_a_sentence(what: str) -> None:
    with pytest.raises(ValueError, match=what):
        bad()[what]()
