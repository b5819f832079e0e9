"""The CPU's verbs, forward and backward, beside their torch twins and Mitsuba 3: `python -m benchmarks.raster`.

Every row is one run on one machine: the least CPU time of some repeats in ms, and ratios to ours. 8 views; spheres of
about --faces triangles in pictures of --sizes pixels. Twins are left out where a call takes them more than --patience
seconds. Mitsuba (the extra `bench`) renders position, normal and depth with one sample a pixel, as `render_mesh` does
before it smooths silhouettes; its scalar variant for the forward pass, its llvm variant with --llvm where an LLVM
newer than 15 is found (15 has no code for AVX-512 here).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from renderers import mesh_cpu, mesh_twin
from renderers.cameras import Cameras, orbit
from renderers.mesh import render_mesh, vertex_normals
from renderers.raster import (
    RasterizeCpuContext,
    RasterizeTorchContext,
    antialias,
    antialias_construct_topology_hash,
    cpu,
    interpolate,
    rasterize,
    texture,
    texture_construct_mip,
    texture_cpu,
    texture_twin,
    twin,
)
from renderers.raster.rasterize import visible
from renderers.raster.screen import project
from renderers.raster.texels import pyramid

VIEWS = 8
Work = Callable[[], object]


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


def milliseconds(work: Work, repeats: int) -> float:
    """The least CPU time of `work`, of all threads, after a warm-up call: what else runs beside it counts least."""
    times = []
    for i in range(repeats + 1):
        start = time.process_time()
        work()
        if i:
            times.append(time.process_time() - start)
    return 1e3 * min(times)


def backward(work: Callable[[], Tensor], *inputs: Tensor) -> Work:
    """`work` and its gradients."""
    return lambda: torch.autograd.grad(work().sum(), inputs)


def rows(vertices: Tensor, faces: Tensor, size: int) -> list[tuple[str, Work, Work | None]]:
    """(name, ours, the twin) of everything that is measured."""
    cameras = orbit(VIEWS, 0.3, 0.2)
    topology = antialias_construct_topology_hash(faces)
    v, c = vertices.clone().requires_grad_(), (vertices * 0.5 + 0.5).requires_grad_()
    pos = cameras.clip(vertices)
    moving = pos.clone().requires_grad_()
    numba, plain = RasterizeCpuContext(), RasterizeTorchContext()
    with torch.no_grad():
        rast, _ = rasterize(numba, pos, faces, (size, size))
        colors, _ = interpolate(c, rast, faces)
    colors.requires_grad_()
    ids, points = visible(numba, pos, faces, (size, size)), project(pos, size, size)
    index = ids.reshape(-1).nonzero()[:, 0]
    table = torch.cat([vertices, vertex_normals(vertices, faces), c.detach()], 1).requires_grad_()

    tex = torch.rand(1, 1024, 1024, 3).requires_grad_()
    side = torch.linspace(0, 1, size)
    uv = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).repeat(VIEWS, 1, 1, 1).requires_grad_()
    level = (3 * torch.rand(VIEWS, size, size)).requires_grad_()
    with torch.no_grad():
        levels = pyramid([tex, *texture_construct_mip(tex)])
    mips = type(levels)(levels.texels.requires_grad_(), levels.sizes)

    def fused(backend: Any) -> Tensor:
        _, covered = backend.surface(moving, table, faces, ids, index)
        return backend.shade(covered, covered[:, 6:], index, cameras, size, False)

    def looked(backend: Any) -> Tensor:
        return backend.look_up(mips, uv, level, False, "wrap")

    def rastered(ctx: Any) -> Tensor:
        return rasterize(ctx, moving, faces, (size, size))[0]

    def rendered() -> Tensor:
        return render_mesh(numba, v, faces, cameras, size, c, topology).frames()

    def smoothed() -> Tensor:
        return antialias(colors, rast, moving, faces, topology)

    return [
        ("rasterize", lambda: rastered(numba), lambda: rastered(plain)),
        ("  backward", backward(lambda: rastered(numba)[..., :3], moving), None),
        ("interpolate", lambda: interpolate(c, rast, faces), None),
        ("  backward", backward(lambda: interpolate(c, rast, faces)[0], c), None),
        (
            "texture, bilinear",
            lambda: texture(tex, uv),
            lambda: texture_twin.look_up(pyramid([tex]), uv, None, False, "wrap"),
        ),
        ("texture, mip", lambda: looked(texture_cpu), lambda: looked(texture_twin)),
        (
            "  backward",
            backward(lambda: looked(texture_cpu), mips.texels, uv, level),
            backward(lambda: looked(texture_twin), mips.texels, uv, level),
        ),
        (
            "silhouette search",
            lambda: cpu.crossings(rast, points, faces, topology),
            lambda: twin.crossings(rast, points, faces, topology),
        ),
        ("antialias", smoothed, None),
        ("  backward", backward(smoothed, colors, moving), None),
        ("surface and shading", lambda: fused(mesh_cpu), lambda: fused(mesh_twin)),
        (
            "  backward",
            backward(lambda: fused(mesh_cpu), moving, table),
            backward(lambda: fused(mesh_twin), moving, table),
        ),
        ("render_mesh", rendered, None),
        ("  backward", backward(rendered, v, c), None),
    ]


def mitsuba_scene(vertices: Tensor, faces: Tensor, cameras: Cameras, size: int, variant: str) -> Work:
    """A function that renders the mesh from every camera. ImportError without the extra `bench`."""
    import drjit  # pyright: ignore[reportMissingImports]
    import mitsuba as mi  # pyright: ignore[reportMissingImports]
    import trimesh

    mi.set_variant(variant)
    drjit.set_thread_count(torch.get_num_threads())
    normals = vertex_normals(vertices, faces).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.ply"
        mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), vertex_normals=normals, process=False)
        mesh.export(path, vertex_normal=True)
        scene = mi.load_dict(
            {
                "type": "scene",
                "integrator": {"type": "aov", "aovs": "p:position,n:sh_normal,d:depth"},
                "mesh": {"type": "ply", "filename": str(path)},
            }
        )
    sensors = [
        mi.load_dict(
            {
                "type": "perspective",
                "fov": math.degrees(float(fov)),
                "to_world": mi.ScalarTransform4f().look_at(origin=eye.tolist(), target=[0, 0, 0], up=[0, 1, 0]),
                "film": {"type": "hdrfilm", "width": size, "height": size, "rfilter": {"type": "box"}},
                "sampler": {"type": "independent", "sample_count": 1},
            }
        )
        for eye, fov in zip(cameras.position(), cameras.fov, strict=True)
    ]
    return lambda: [mi.render(scene, sensor=s, spp=1).array[0] for s in sensors]  # reading waits for the result


def measure(rings: int, size: int, repeats: int, patience: float, variants: list[str]) -> list[dict[str, Any]]:
    vertices, faces = globe(rings, rings)
    print(f"\n{len(faces)} triangles, {VIEWS} x {size} x {size}, {torch.get_num_threads()} threads")
    print(f"{'':24}{'ours ms':>10}{'us/pixel':>10}{'twin ms':>10}{'twin/ours':>10}")
    out, ours = list[dict[str, Any]](), 0.0
    for name, fast, slow in rows(vertices, faces, size):
        a = milliseconds(fast, repeats)
        line: dict[str, Any] = {"faces": len(faces), "size": size, "what": name, "ours": a}
        ours = a if name == "render_mesh" else ours
        told = f"{name:24}{a:10.2f}{1e3 * a / (VIEWS * size * size):10.3f}"
        if slow is not None:
            start = time.perf_counter()
            slow()
            if time.perf_counter() - start < patience:
                line["twin"] = milliseconds(slow, max(2, repeats // 3))
                told += f"{line['twin']:10.1f}{line['twin'] / a:10.1f}"
            else:
                told += f"{'> ' + str(round(1e3 * patience)):>10}"
        print(told, flush=True)
        out.append(line)
    for variant in variants:
        b = milliseconds(mitsuba_scene(vertices, faces, orbit(VIEWS, 0.3, 0.2), size, variant), repeats)
        print(f"{'Mitsuba ' + variant:24}{b:10.2f}{'':10}{'':10}{b / ours:10.1f} of render_mesh")
        out.append({"faces": len(faces), "size": size, "what": variant, "ours": ours, "mitsuba": b})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--faces", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patience", type=float, default=3.0, help="seconds of one call of a twin")
    parser.add_argument("--no-mitsuba", action="store_true")
    parser.add_argument("--llvm", action="store_true", help="Mitsuba's llvm variant too")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    a = parser.parse_args()
    for compiled in (cpu, texture_cpu, mesh_cpu):
        compiled.compile_kernels()
    variants = [] if a.no_mitsuba else ["scalar_rgb", *(["llvm_ad_rgb"] if a.llvm else [])]
    found = list[dict[str, Any]]()
    for faces in a.faces:
        for size in a.sizes:
            found += measure(round(math.sqrt(faces / 2)) + 1, size, a.repeats, a.patience, variants)
            if a.out:
                a.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
