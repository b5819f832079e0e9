"""The rasterizer's parts, numba against the torch twin, as ratios inside one run: `python -m benchmarks.raster`.

Scenes: a 12,000-triangle sphere from 4 views at 64 pixels (what mesh refinement renders), a 20,000-triangle one at
4 x 64 and 1 x 256. Times are medians in ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from renderers.cameras import orbit
from renderers.mesh import render_mesh, vertex_normals
from renderers.raster import (
    RasterizeCpuContext,
    RasterizeTorchContext,
    antialias,
    antialias_construct_topology_hash,
    cpu,
    interpolate,
    rasterize,
    twin,
)
from renderers.raster.screen import project, snap


def globe(rings: int, spokes: int, radius: float = 0.8) -> tuple[Tensor, Tensor]:
    """A closed sphere of 2 * (rings - 1) * spokes triangles."""
    polar = torch.linspace(0, torch.pi, rings + 1)[1:-1]
    around = torch.arange(spokes) * (2 * torch.pi / spokes)
    p, a = (x.reshape(-1) for x in torch.meshgrid(polar, around, indexing="ij"))
    body = torch.stack([p.sin() * a.sin(), p.cos(), p.sin() * a.cos()], 1)
    vertices = radius * torch.cat([body, torch.tensor([[0.0, 1, 0], [0, -1, 0]])])
    grid = torch.arange(len(body)).reshape(rings - 1, spokes)
    up, down, north, south = grid[:-1], grid[1:], len(body), len(body) + 1
    parts = [
        torch.stack([up, down, down.roll(-1, 1)], -1).reshape(-1, 3),
        torch.stack([up, down.roll(-1, 1), up.roll(-1, 1)], -1).reshape(-1, 3),
        torch.stack([torch.full((spokes,), north), grid[0], grid[0].roll(-1)], -1),
        torch.stack([torch.full((spokes,), south), grid[-1].roll(-1), grid[-1]], -1),
    ]
    return vertices, torch.cat(parts).int()


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of `work` after two warm-up calls."""
    times = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        work()
        if i > 1:
            times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[len(times) // 2]


def measure(rings: int, spokes: int, views: int, size: int, repeats: int = 15) -> None:
    vertices, faces = globe(rings, spokes)
    cameras = orbit(views, 0.3, 0.2)
    color = vertices * 0.5 + 0.5
    topology = antialias_construct_topology_hash(faces)
    pos = cameras.clip(vertices)
    screen, points = snap(pos, size, size), project(pos, size, size)
    numba, plain = RasterizeCpuContext(), RasterizeTorchContext()
    rast, _ = rasterize(numba, pos, faces, (size, size))

    print(f"\n{len(faces)} triangles, {views} x {size} x {size}, {torch.get_num_threads()} threads")
    print(f"{'':24}{'numba ms':>10}{'torch ms':>10}{'ratio':>8}")
    pairs: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("visibility", lambda: cpu.visible(screen, faces), lambda: twin.visible(screen, faces)),
        (
            "silhouette search",
            lambda: cpu.crossings(rast, points, faces, topology),
            lambda: twin.crossings(rast, points, faces, topology),
        ),
        (
            "rasterize",
            lambda: rasterize(numba, pos, faces, (size, size)),
            lambda: rasterize(plain, pos, faces, (size, size)),
        ),
    ]
    for name, fast, slow in pairs:
        a, b = milliseconds(fast, repeats), milliseconds(slow, max(repeats // 3, 3))
        print(f"{name:24}{a:10.2f}{b:10.2f}{b / a:8.1f}")

    moving, painted = vertices.clone().requires_grad_(), color.clone().requires_grad_()

    def step() -> None:
        out = render_mesh(numba, moving, faces, cameras, size, painted, topology)
        out.frames().square().mean().backward()

    alone: list[tuple[str, Callable[[], object]]] = [
        ("topology (once a mesh)", lambda: antialias_construct_topology_hash(faces)),
        ("vertex_normals", lambda: vertex_normals(vertices, faces)),
        ("interpolate", lambda: interpolate(color, rast, faces)),
        ("antialias", lambda: antialias(rast, rast, pos, faces, topology)),
        ("render_mesh", lambda: render_mesh(numba, vertices, faces, cameras, size, color, topology)),
        ("render_mesh + backward", step),
    ]
    for name, work in alone:
        print(f"{name:24}{milliseconds(work, repeats):10.2f}")


def main() -> None:
    cpu.compile_kernels()
    measure(61, 100, 4, 64)
    measure(101, 100, 4, 64)
    measure(101, 100, 1, 256)


if __name__ == "__main__":
    main()
