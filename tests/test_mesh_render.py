"""Mesh rendering: orientation, analytic spheres, normals, colour functions and gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import trimesh
from torch import Tensor

from renderers import mesh_cpu, mesh_twin
from renderers.cameras import Cameras, make_cameras, orbit
from renderers.mesh import render_mesh, vertex_normals
from renderers.raster import RasterizeCpuContext, RasterizeTorchContext, antialias_construct_topology_hash
from renderers.raster.rasterize import visible

CPU = RasterizeCpuContext()


def sphere(subdivisions: int = 4, radius: float = 0.8) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces, dtype=torch.int32)


def camera(azimuth: float = 0.0, elevation: float = 0.0) -> Cameras:
    return make_cameras(torch.tensor([math.radians(azimuth)]), torch.tensor([math.radians(elevation)]))


def ray_sphere(cameras: Cameras, size: int, radius: float) -> tuple[Tensor, Tensor]:
    """Distance along each pixel's ray (B, H, W), NaN where it misses, and the camera-space normal (B, H, W, 3)."""
    origin, direction = cameras.rays(size, size)
    b = (origin * direction).sum(-1)
    t = -b - (b * b - (origin * origin).sum(-1) + radius**2).sqrt()
    normal = (origin + t[..., None] * direction) / radius
    return t, torch.einsum("bji,bhwj->bhwi", cameras.rotation(), normal)


def test_a_sphere_has_the_analytic_area_depth_and_normals() -> None:
    vertices, faces = sphere()
    cameras = make_cameras(torch.tensor([0.3, 2.0]), torch.tensor([0.4]))
    out = render_mesh(CPU, vertices, faces, cameras, 64, torch.ones_like(vertices))
    fine, _ = ray_sphere(cameras, 512, 0.8)
    area = (~fine.isnan()).float().mean((1, 2))
    assert torch.allclose(out.alpha.mean((1, 2, 3)), area, rtol=0.01)
    assert torch.allclose(out.color, out.alpha.expand_as(out.color))  # white, premultiplied

    t, normal = ray_sphere(cameras, 64, 0.8)
    inside = (out.alpha[:, 0] == 1) & (normal[..., 2] > 0.3)
    assert inside.float().mean() > 0.3
    assert (out.depth[:, 0] - t).abs()[inside].max() < 0.02
    cosine = (out.normal.permute(0, 2, 3, 1) * normal).sum(-1)[inside]
    assert cosine.min() > math.cos(math.radians(2))
    assert out.normal[:, 2, 32, 32].min() > 0.99
    outside = out.alpha == 0
    assert all((picture * outside).abs().max() == 0 for picture in (out.color, out.normal, out.depth))


def test_row_zero_is_the_top_and_azimuth_grows_towards_x() -> None:
    vertices, faces = sphere()
    north = (vertices[:, 1:2] > 0).float()
    east = (vertices[:, 0:1] > 0).float()
    color = torch.cat([north, east, torch.zeros_like(north)], 1)
    red, green = render_mesh(CPU, vertices, faces, camera(0), 32, color).color[0, :2]
    assert red[8, 16] > 0.999 and red[24, 16] == 0
    assert green[16, 24] > 0.999 and green[16, 8] == 0  # +X is to the right from the front
    assert render_mesh(CPU, vertices, faces, camera(90), 32, color).color[0, 1, 16, 4:28].min() > 0.999
    assert render_mesh(CPU, vertices, faces, camera(-90), 32, color).color[0, 1, 16, 4:28].max() == 0
    from_above = render_mesh(CPU, vertices, faces, camera(0, 80), 32, color).color[0, 0, 16]
    assert from_above[8:24].min() > 0.999


def test_pixels_lie_where_camera_rays_go() -> None:
    """A small bright triangle on the unit square lands on the ray through its centre, with its normal towards the
    camera."""
    cameras = camera(30, 20)
    origin, direction = cameras.rays(16, 16)
    target = origin[0, 3, 11] + 2.5 * direction[0, 3, 11]
    right, up, _ = cameras.rotation()[0].T
    vertices = torch.stack([target - 0.1 * right - 0.1 * up, target + 0.1 * right - 0.1 * up, target + 0.14 * up])
    out = render_mesh(CPU, vertices, torch.tensor([[0, 1, 2]], dtype=torch.int32), cameras, 16, torch.ones(3, 3))
    assert out.alpha[0, 0, 3, 11] == 1 and out.alpha.sum() < 6
    assert out.depth[0, 0, 3, 11] == pytest.approx(2.5, abs=1e-4)
    assert torch.allclose(out.normal[0, :, 3, 11], torch.tensor([0.0, 0, 1]), atol=1e-5)


def test_two_sided_turns_normals_to_the_camera() -> None:
    vertices, faces = sphere(3)
    inside_out = faces[:, [0, 2, 1]]
    for two_sided, sign in ((False, -1), (True, 1)):
        out = render_mesh(CPU, vertices, inside_out, camera(), 32, torch.ones_like(vertices), two_sided=two_sided)
        assert sign * out.normal[0, 2, 16, 16] > 0.9


def test_supersampling_averages_the_larger_picture() -> None:
    vertices, faces = sphere(3)
    one = render_mesh(CPU, vertices, faces, camera(40, 10), 96, vertices * 0.5 + 0.5)
    three = render_mesh(CPU, vertices, faces, camera(40, 10), 32, vertices * 0.5 + 0.5, supersample=3)
    assert torch.allclose(three.frames(), F.avg_pool2d(one.frames(), 3), atol=1e-6)


def test_a_colour_function_sees_surface_points_only_and_is_differentiated() -> None:
    vertices, faces = sphere()
    vertices.requires_grad_()
    weight = torch.tensor([[0.3, 0.1, 0.0], [0.0, 0.4, 0.1], [0.2, 0.0, 0.3]], requires_grad=True)
    asked: list[Tensor] = []

    def linear(points: Tensor) -> Tensor:
        asked.append(points)
        return 0.5 + points @ weight

    cameras = orbit(2, 0.3)
    by_function = render_mesh(CPU, vertices, faces, cameras, 32, linear)
    by_vertex = render_mesh(CPU, vertices, faces, cameras, 32, 0.5 + vertices @ weight)
    assert len(asked) == 1 and (asked[0].norm(dim=1) - 0.8).abs().max() < 0.01
    assert torch.allclose(by_function.color, by_vertex.color, atol=1e-5)
    grads = [torch.autograd.grad(r.color.square().sum(), (weight, vertices)) for r in (by_function, by_vertex)]
    for a, b in zip(*grads, strict=True):
        assert b.abs().max() > 0 and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_backends_render_the_same() -> None:
    vertices, faces = sphere(3)
    a, b = (render_mesh(c, vertices, faces, orbit(3), 24, vertices.abs()) for c in (CPU, RasterizeTorchContext()))
    assert torch.equal(a.frames(), b.frames()) and torch.equal(a.depth, b.depth)


def test_the_silhouette_of_a_fine_sphere_moves() -> None:
    """20,480 triangles at 64 pixels, most smaller than a pixel: alpha's gradient against finite differences of 8 x 8
    samples."""
    vertices, faces = sphere(5)
    topology = antialias_construct_topology_hash(faces)
    cameras = orbit(2, 0.3)
    y, x = torch.meshgrid(*[(torch.arange(64) + 0.5) / 32 - 1] * 2, indexing="ij")
    weight = torch.sin(1.3 * x + 2 * y) + x * y - 0.5

    def loss(moved: Tensor, supersample: int) -> Tensor:
        shade = torch.ones_like(moved)
        return (
            render_mesh(CPU, moved, faces, cameras, 64, shade, topology, supersample=supersample).alpha * weight
        ).sum()

    moves = [torch.tensor([0.0, 1, 0]).expand_as(vertices), vertices, vertices * (vertices[:, :1] > 0.2)]
    for move in moves:
        s = torch.zeros((), requires_grad=True)
        loss(vertices + s * move, 1).backward()
        with torch.no_grad():
            want = (loss(vertices + 0.02 * move, 8) - loss(vertices - 0.02 * move, 8)) / 0.04
        assert s.grad is not None and float(s.grad) == pytest.approx(float(want), rel=0.05)


def test_gradients_lead_a_small_sphere_to_a_large_one() -> None:
    vertices, faces = sphere(3, 0.5)
    goal, _ = sphere(3, 0.7)
    topology = antialias_construct_topology_hash(faces)
    cameras = orbit(2, 0.3)
    target = render_mesh(CPU, goal, faces, cameras, 32, torch.ones_like(goal), topology).alpha
    size = torch.ones((), requires_grad=True)
    optimizer = torch.optim.Adam([size], lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        out = render_mesh(CPU, vertices * size, faces, cameras, 32, torch.ones_like(goal), topology)
        (out.alpha - target).square().mean().backward()
        optimizer.step()
    assert float(size.detach()) == pytest.approx(1.4, abs=0.01)


# ---- vertex normals ----


def test_vertex_normals_of_a_sphere_point_outwards() -> None:
    vertices, faces = sphere(3)
    assert ((vertex_normals(vertices, faces) * vertices / 0.8).sum(1) > 0.999).all()


def test_vertex_normals_do_not_depend_on_how_a_cube_is_cut() -> None:
    """Its corners meet three right angles, however the diagonals run: area or uniform weights would lean."""
    box = trimesh.creation.box()
    vertices, faces = torch.tensor(box.vertices, dtype=torch.float32), torch.tensor(box.faces, dtype=torch.int32)
    assert torch.allclose(vertex_normals(vertices, faces), F.normalize(vertices, dim=1), atol=1e-6)


def test_vertex_normals_are_differentiable_and_finite() -> None:
    vertices, faces = sphere(1)
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v, faces), vertices.double().requires_grad_())
    # a flat triangle and a vertex without faces, next to a sound triangle
    broken = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [3, 0, 0], [9, 9, 9]], requires_grad=True)
    normals = vertex_normals(broken, torch.tensor([[0, 1, 2], [1, 3, 4], [4, 4, 4]], dtype=torch.int32))
    assert normals[:3].tolist() == [[0, 0, 1]] * 3 and normals[3:].abs().max() == 0
    (normals * torch.arange(18.0).reshape(6, 3)).sum().backward()
    assert broken.grad is not None and broken.grad.isfinite().all() and broken.grad.abs().max() < 100


def test_same_bits_with_one_thread_and_two() -> None:
    vertices, faces = sphere(4)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            v = vertices.clone().requires_grad_()
            out = render_mesh(CPU, v, faces, orbit(2, 0.2), 48, v * 0.5 + 0.5)
            out.frames().square().sum().backward()
            results.append((out.frames().detach(), v.grad))
    finally:
        torch.set_num_threads(before)
    for frames, grad in results[1:]:
        assert torch.equal(frames, results[0][0]) and grad is not None and torch.equal(grad, results[0][1])


def test_errors_are_sentences() -> None:
    vertices, faces = sphere(1)
    with pytest.raises(ValueError, match="at least 1"):
        render_mesh(CPU, vertices, faces, camera(), 0, vertices)
    with pytest.raises(ValueError, match="vertex indices"):
        render_mesh(CPU, vertices[:5], faces, camera(), 8, vertices[:5])


@pytest.mark.parametrize("two_sided", [False, True])
def test_the_fused_kernels_and_their_twin_agree_in_values_and_gradients(two_sided: bool) -> None:
    """A soup of triangles that overlap, of all sizes, with normals of all lengths, one of them none."""
    g = torch.Generator().manual_seed(0)
    vertices = torch.rand(60, 3, generator=g) * 1.6 - 0.8
    tri = torch.randint(0, 60, (50, 3), generator=g).int()
    normals = torch.randn(60, 3, generator=g)
    normals[tri[0].long()] = 0
    colors = torch.rand(60, 3, generator=g)
    cameras = orbit(3, 0.4, 0.2)
    ids = visible(CPU, cameras.clip(vertices), tri, (37, 37))
    index = ids.reshape(-1).nonzero()[:, 0]
    weights = torch.randn(3, 37, 37, 8, generator=g)
    answers = []
    for backend in (mesh_cpu, mesh_twin):
        pos = cameras.clip(vertices).requires_grad_()
        table = torch.cat([vertices, normals, colors], 1).requires_grad_()
        rast, covered = backend.surface(pos, table, tri, ids, index)
        picture = backend.shade(covered, covered[:, 6:], index, cameras, 37, two_sided)
        assert not rast.requires_grad
        answers.append((rast, picture.detach(), *torch.autograd.grad((picture * weights).sum(), (pos, table))))
    assert len(index) > 1000
    for fast, plain in zip(*answers, strict=True):
        assert float(plain.abs().max()) > 0.1
        scale = float(plain.abs().max())
        assert float((fast - plain).abs().max()) < 2e-4 * scale
