"""The raster verbs: conventions by hand, the fill rule, twins, and gradients against supersampled finite
differences."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial import Delaunay
from torch import Tensor

from renderers.raster import (
    RasterizeContext,
    RasterizeCpuContext,
    RasterizeTorchContext,
    antialias,
    antialias_construct_topology_hash,
    cpu,
    interpolate,
    make_context,
    rasterize,
    twin,
)
from renderers.raster.antialias import blend
from renderers.raster.rasterize import barycentrics
from renderers.raster.screen import Screen, project

CONTEXTS = [RasterizeCpuContext(), RasterizeTorchContext()]
both = pytest.mark.parametrize("ctx", CONTEXTS, ids=["numba", "torch"])
CPU = RasterizeCpuContext()


def faces(*rows: tuple[int, int, int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def clip(xy: Tensor, z: float | Tensor = 0.0, w: float | Tensor = 1.0) -> Tensor:
    """(1, V, 4) clip positions of screen points (V, 2) in -1..1 at depth z/w."""
    w = torch.as_tensor(w).expand(len(xy))[:, None]
    z = torch.as_tensor(z).expand(len(xy))[:, None]
    return torch.cat([xy, z, torch.ones_like(w)], 1)[None] * w


def soup(views: int, vertices: int, triangles: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random mesh with shared and non-manifold edges, in perspective and reaching outside the picture and the depth
    range."""
    points = torch.rand(vertices, 3, generator=generator) * 2.6 - 1.3
    tri = torch.randint(0, vertices, (triangles, 3), generator=generator).int()
    w = 0.2 + 1.5 * torch.rand(views, vertices, 1, generator=generator)
    w[:, :3] *= -1  # a few vertices behind the camera
    jitter = 0.1 * torch.randn(views, vertices, 3, generator=generator)
    return torch.cat([(points + jitter) * w.abs(), w], 2), tri


def sheet(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A closed-up planar mesh over the whole picture and beyond; a third of its vertices lie exactly on centres of 16
    x 16 pixels."""
    inner = torch.rand(60, 2, generator=generator) * 2.2 - 1.1
    inner[:20] = ((inner[:20] * 8).floor() + 0.5) / 8
    frame = torch.tensor([[-1.5, -1.5], [1.5, -1.5], [1.5, 1.5], [-1.5, 1.5]])
    xy = torch.cat([inner, frame])
    return xy, torch.from_numpy(Delaunay(xy.numpy()).simplices).int()


# ---- conventions ----


@both
def test_channels_of_a_single_triangle_by_hand(ctx: RasterizeContext) -> None:
    pos = clip(torch.tensor([[-1.0, -1], [1, -1], [-1, 1]]), z=torch.tensor([0.0, 0.4, -0.8]))
    rast, db = rasterize(ctx, pos, faces((0, 1, 2)), (2, 4))
    assert rast.shape == (1, 2, 4, 4) and db.shape == (1, 2, 4, 0)
    # row 0 is y = -1/2, column 0 is x = -3/4: weights 5/8, 1/8, 1/4 of vertices 0, 1, 2
    assert rast[0, 0, 0].tolist() == pytest.approx([0.625, 0.125, 0.4 * 0.125 - 0.8 * 0.25, 1])
    # the upper row, y = +1/2: only x = -3/4 is inside
    assert rast[0, 1, 0].tolist() == pytest.approx([0.125, 0.125, 0.4 * 0.125 - 0.8 * 0.75, 1])
    assert rast[0, 1, 2:].abs().max() == 0


@both
def test_barycentrics_are_perspective_correct(ctx: RasterizeContext) -> None:
    w = torch.tensor([1.0, 3.0, 2.0])
    rast, _ = rasterize(ctx, clip(torch.tensor([[-1.0, -1], [1, -1], [-1, 1]]), w=w), faces((0, 1, 2)), (2, 4))
    screen = torch.tensor([0.625, 0.125, 0.25]) / w
    assert rast[0, 0, 0, :2].tolist() == pytest.approx((screen / screen.sum())[:2].tolist())


@both
def test_the_nearest_triangle_wins_whatever_the_order(ctx: RasterizeContext) -> None:
    xy = torch.tensor([[-3.0, -1], [3, -1], [0, 5]])
    pos = torch.cat([clip(xy, z=0.5), clip(xy, z=-0.5, w=2.0), clip(xy, z=0.1)], 1)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        tri = faces((0, 1, 2), (3, 5, 4), (6, 7, 8))[order]
        rast, _ = rasterize(ctx, pos, tri, (4, 4))
        assert (rast[..., 3] == order.index(1) + 1).all()
        assert torch.allclose(rast[..., 2], torch.tensor(-0.5))


@both
def test_what_cannot_be_seen_is_empty(ctx: RasterizeContext) -> None:
    xy = torch.tensor([[-3.0, -1], [3, -1], [0, 5]])
    tri = faces((0, 1, 2))
    behind, broken, far_off = clip(xy), clip(xy), clip(xy)
    behind[0, 0] *= -1
    broken[0, 1, 0] = math.nan
    far_off[0, 2, 1] = 1e6
    for pos in (behind, broken, far_off, clip(xy, z=1.01), clip(xy, z=-1.01), clip(xy[[0, 1, 1]])):
        assert rasterize(ctx, pos, tri, (8, 8))[0].abs().max() == 0
    assert rasterize(ctx, clip(xy), tri[:0], (8, 8))[0].abs().max() == 0
    # a triangle that dips through the near plane is cut there
    rast, _ = rasterize(ctx, clip(xy, z=torch.tensor([-5.0, 5.0, 0.0])), tri, (8, 8))
    assert 0 < (rast[..., 3] > 0).sum() < 64 and rast[..., 2].abs().max() <= 1


@both
def test_shared_edges_have_neither_gaps_nor_double_hits(ctx: RasterizeContext) -> None:
    xy, tri = sheet(torch.Generator().manual_seed(3))
    pos = clip(xy, w=0.5 + torch.rand(len(xy), generator=torch.Generator().manual_seed(4)))
    singles = [rasterize(ctx, pos, tri[i : i + 1], (16, 16))[0][..., 3] for i in range(len(tri))]
    hits = (torch.stack(singles) > 0).sum(0)
    assert (hits == 1).all()
    flipped = tri[:, [0, 2, 1]]
    assert torch.equal(
        rasterize(ctx, pos, tri, (16, 16))[0][..., 3], rasterize(ctx, pos, flipped, (16, 16))[0][..., 3]
    )


def test_an_axis_aligned_edge_is_antialiased_exactly() -> None:
    for edge in (3.1, 3.5, 3.8):
        x = edge / 4 - 1
        pos = clip(torch.tensor([[-2.0, -2], [x, -2], [x, 2], [-2, 2]]), w=torch.tensor([1.0, 2, 2, 1]))
        tri = faces((0, 1, 2), (0, 2, 3))
        rast, _ = rasterize(CPU, pos, tri, (4, 8))
        row = antialias((rast[..., 3:] > 0).float(), rast, pos, tri)[0, :, :, 0]
        want = torch.tensor([1, 1, 1, edge - 3, 0, 0, 0, 0])
        assert torch.allclose(row, want.expand(4, 8), atol=1e-5)


def test_topology_of_closed_open_and_non_manifold_meshes() -> None:
    tetrahedron = antialias_construct_topology_hash(faces((0, 1, 2), (0, 3, 1), (1, 3, 2), (2, 3, 0)))
    assert tetrahedron.neighbour[0].tolist() == [2, 3, 1] and tetrahedron.opposite[0].tolist() == [3, 3, 3]
    pair = antialias_construct_topology_hash(faces((0, 1, 2), (2, 1, 3)))
    assert pair.neighbour.tolist() == [[1, 0, 0], [1, 1, 0]] and pair.opposite.tolist() == [[3, 1, 2], [2, 1, 0]]
    fan = antialias_construct_topology_hash(faces((0, 1, 2), (0, 1, 3), (0, 1, 4)))
    assert fan.neighbour[:, 2].tolist() == [1, 2, 0] and fan.opposite[:, 2].tolist() == [3, 4, 2]


# ---- twins, differentiation, determinism ----


@pytest.mark.parametrize("seed", range(4))
def test_twins_agree_in_values_and_gradients(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    pos, tri = soup(*[(3, 40, 60), (2, 300, 900), (1, 1000, 3000), (4, 9, 12)][seed], g)
    if seed == 3:
        xy, tri = sheet(g)
        xy = 0.6 * xy
        pos = clip(xy, z=0.2 * torch.rand(len(xy), generator=g), w=0.5 + torch.rand(len(xy), generator=g)).repeat(
            4, 1, 1
        )
    attr = torch.rand(pos.shape[0], pos.shape[1], 3, generator=g)
    weight = torch.rand(pos.shape[0], 37, 53, 3, generator=g)
    topology = antialias_construct_topology_hash(tri)
    results, blended = [], False
    for ctx, backend in zip(CONTEXTS, (cpu, twin), strict=True):
        p, a = pos.clone().requires_grad_(), attr.clone().requires_grad_()
        rast, _ = rasterize(ctx, p, tri, (37, 53))
        color, _ = interpolate(a, rast, tri)
        crossings = backend.crossings(rast.detach(), project(p, 37, 53), tri, topology)
        out = blend(color, p, crossings)
        (out * weight).sum().backward()
        blended = not torch.equal(out, color)
        results.append((rast.detach(), out.detach(), p.grad, a.grad))
    assert (results[0][0][..., 3] > 0).float().mean() > 0.3
    assert blended
    for numba, plain in zip(*results, strict=True):
        assert numba is not None and plain is not None and torch.equal(numba, plain)


def test_the_twin_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    pos, tri = soup(2, 100, 200, torch.Generator().manual_seed(5))
    whole = rasterize(CONTEXTS[1], pos, tri, (20, 30))[0]
    monkeypatch.setattr(twin, "CHUNK", 100)
    assert torch.equal(whole, rasterize(CONTEXTS[1], pos, tri, (20, 30))[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_twin_on_a_gpu_sees_the_same_triangles() -> None:
    pos, tri = soup(2, 300, 900, torch.Generator().manual_seed(6))
    on_gpu, _ = rasterize(make_context("cuda"), pos.cuda(), tri.cuda(), (37, 53))
    on_cpu, _ = rasterize(CPU, pos, tri, (37, 53))
    assert torch.equal(on_gpu[..., 3].cpu(), on_cpu[..., 3]) and torch.allclose(on_gpu.cpu(), on_cpu, atol=1e-6)
    color = torch.rand(2, 37, 53, 3, generator=torch.Generator().manual_seed(7))
    smooth = antialias(color.cuda(), on_gpu, pos.cuda(), tri.cuda())
    assert torch.allclose(smooth.cpu(), antialias(color, on_cpu, pos, tri), atol=1e-5)


def test_gradcheck_of_the_differentiable_parts() -> None:
    xy, tri = sheet(torch.Generator().manual_seed(8))
    xy, tri = xy * 0.4, tri[:30]  # a ragged patch with open edges inside the picture
    g = torch.Generator().manual_seed(9)
    pos = clip(xy, z=0.3 * torch.rand(len(xy), generator=g), w=0.5 + torch.rand(len(xy), generator=g))
    rast, _ = rasterize(CPU, pos, tri, (8, 8))
    ids = rast[..., 3].int()
    least = torch.minimum(rast[..., :2].amin(-1), 1 - rast[..., :2].sum(-1))
    inside = ((ids > 0) & (least > 1e-3))[..., None]  # clamping has no gradient
    wide = pos.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: barycentrics(p, tri, ids)[0][..., :3] * inside, wide)

    attr = torch.rand(1, len(xy), 2, generator=g, dtype=torch.float64).requires_grad_()
    fixed, uvz = rast[..., 3:].double(), rast[..., :3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, r: interpolate(a, torch.cat([r, fixed], -1), tri)[0], (attr, uvz))

    crossings = cpu.crossings(rast, project(pos, 8, 8), tri, antialias_construct_topology_hash(tri))
    assert len(crossings.pixel) > 10
    color = torch.rand(1, 8, 8, 2, generator=g, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda c, p: blend(c, p, crossings), (color, wide))


def test_same_bits_with_one_thread_and_two() -> None:
    pos, tri = soup(3, 2000, 6000, torch.Generator().manual_seed(10))
    attr = torch.rand(2000, 4, generator=torch.Generator().manual_seed(11))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2, 1):
            torch.set_num_threads(threads)
            p, a = pos.clone().requires_grad_(), attr.clone().requires_grad_()
            rast, _ = rasterize(CPU, p, tri, (65, 70))
            out = antialias(interpolate(a, rast, tri)[0], rast, p, tri)
            (out * out).sum().backward()
            results.append((out.detach(), p.grad, a.grad))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(
            torch.equal(x, y) for x, y in zip(results[0], other, strict=True) if x is not None and y is not None
        )


def test_attributes_broadcast_and_gradient_boost() -> None:
    pos, tri = soup(2, 50, 40, torch.Generator().manual_seed(12))
    attr = torch.rand(50, 3, generator=torch.Generator().manual_seed(13))
    rast, _ = rasterize(CPU, pos, tri, (16, 16))
    shared, _ = interpolate(attr, rast, tri)
    assert torch.equal(shared, interpolate(attr[None], rast, tri)[0])
    assert torch.equal(shared, interpolate(attr.expand(2, -1, -1), rast, tri)[0])
    grads = []
    for boost in (1.0, 3.0):
        p = pos.clone().requires_grad_()
        antialias(shared, rast, p, tri, pos_gradient_boost=boost).square().sum().backward()
        grads.append(p.grad)
    assert grads[0].abs().max() > 0 and torch.allclose(3 * grads[0], grads[1])


# ---- errors ----


def test_errors_are_sentences() -> None:
    pos, tri = clip(torch.tensor([[-1.0, -1], [1, -1], [-1, 1]])), faces((0, 1, 2))
    rast, _ = rasterize(CPU, pos, tri, (4, 4))
    color = torch.zeros(1, 4, 4, 3)
    calls = {
        "Range mode": lambda: rasterize(CPU, pos[0], tri, (4, 4)),
        "float32": lambda: rasterize(CPU, pos.double(), tri, (4, 4)),
        "resolution": lambda: rasterize(CPU, pos, tri, (4, 0)),
        "int32": lambda: rasterize(CPU, pos, tri.long(), (4, 4)),
        "vertex indices": lambda: rasterize(CPU, pos, tri + 1, (4, 4)),
        "diff_attrs": lambda: interpolate(pos, rast, tri, diff_attrs="all"),
        "attr must be": lambda: interpolate(pos.expand(2, 3, 4), rast, tri),
        "outside tri": lambda: interpolate(pos, rast, tri[:0]),
        "color must be": lambda: antialias(color[:, :3], rast, pos, tri),
        "topology_hash": lambda: antialias(color, rast, pos, tri, antialias_construct_topology_hash(tri.repeat(2, 1))),
        "RasterizeTorchContext": lambda: CPU.visible(
            Screen(torch.empty(1, 3, 2, device="meta"), torch.empty(1, 3, device="meta"), 4, 4), tri
        ),
    }
    for words, call in calls.items():
        with pytest.raises(ValueError, match=words):
            call()
    assert isinstance(make_context("cpu"), RasterizeCpuContext)
    assert isinstance(make_context("cuda:0"), RasterizeTorchContext)
