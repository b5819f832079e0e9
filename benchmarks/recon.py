"""Known objects from exact renders, without a prior: `python -m benchmarks.recon [--data ../shared/data]`.

A torus and a chair made in code (boxes joined, one cut out of the back), and with --data five held-out objects of the
training pack. Their visual hull is fitted to alpha and normals of every view (app/stages/fuse.py) by both surfaces of
the refinement: a mesh under large steps, and tetrahedra. Distances in bounding radii; `legs`: the share of points on
the chair's legs with something of the result within .05.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from scipy.spatial import KDTree
from torch import Tensor

from app.recipes import DirectRecipe
from app.stages.fuse import fuse_step, hull_mesh
from app.stages.rounds import falling, rounds_of, start_round
from benchmarks.single_view_metrics import POINTS, points_on, solid_frames, surface_metrics
from benchmarks.single_view_scenes import Solid
from renderers.cameras import Cameras, make_cameras
from renderers.isosurface import keep_largest_components
from renderers.tetrahedra import marching_tetrahedra, tet_grid

FINE = 96  # grid vertices of the objects made here
KINDS = {"hull": None, "mesh": 0, "tetrahedra": 64}
COLUMNS = ("Chamfer", "F@0.02", "F@0.05")


def box(p: Tensor, at: tuple[float, float, float], size: tuple[float, float, float]) -> Tensor:
    """Signed distance (N,) to a box, positive inside."""
    d = (p - torch.tensor(at)).abs() - torch.tensor(size) / 2
    return -(d.clamp(min=0).norm(dim=1) + d.amax(1).clamp(max=0))


def chair(p: Tensor) -> Tensor:
    """Seat, back with a window, four legs 0.1 thick: three pixels of a frame of 64."""
    parts = [box(p, (x, -0.45, z), (0.1, 0.8, 0.1)) for x in (-0.35, 0.35) for z in (-0.35, 0.35)]
    parts += [box(p, (0, 0, 0), (0.8, 0.12, 0.8)), box(p, (0, 0.4, -0.35), (0.8, 0.8, 0.1))]
    window = box(p, (0, 0.45, -0.35), (0.45, 0.35, 0.4))
    return torch.minimum(torch.stack(parts).amax(0), -window)


def torus(p: Tensor) -> Tensor:
    return 0.22 - (((p[:, 0].square() + p[:, 2].square()).sqrt() - 0.58).square() + p[:, 1].square()).sqrt()


def solid(vertices: Tensor, faces: Tensor) -> Solid:
    return Solid(vertices, faces, torch.full_like(vertices, 0.5))


def objects(data: Path | None) -> dict[str, Solid]:
    grid = tet_grid(FINE)
    out = {name: solid(*marching_tetrahedra(grid, f(grid.points))) for name, f in (("torus", torus), ("chair", chair))}
    if data is not None:
        from app.training.data import load_pack
        from benchmarks.single_view_scenes import chosen, solid_of

        pack = load_pack(data)
        out |= {pack.rows[i]["caption"][:32]: solid_of(pack, i) for i in chosen(pack, 5, "tune")}
    return out


def around(views: int) -> Cameras:
    """Views in three rings, from below, the side and above."""
    n = torch.arange(views)
    return make_cameras(n * (2 * math.pi / views), torch.tensor([-0.5, 0.25, 0.95])[n % 3])


def fitted(start: tuple[Tensor, Tensor], frames: Tensor, cameras: Cameras, grid: int) -> tuple[Tensor, Tensor]:
    recipe = DirectRecipe()
    rounds = dataclasses.replace(rounds_of(recipe, cameras.pixel(frames.shape[-1])), grid=grid)
    vertices, faces = start
    for r, steps in enumerate(rounds.steps):
        state, now = start_round(vertices, faces, rounds, r, {})
        step = falling(fuse_step(now, frames, cameras, recipe), state, rounds, r)
        for i in range(steps):
            state.backward(step(i).loss)
            state.update()
        vertices, faces = now().vertices.detach(), now().faces
    return keep_largest_components(vertices, faces, 0.02)


def legs_kept(vertices: Tensor, faces: Tensor, truth: Solid) -> float:
    """Of the chair: points under its seat, outwards of its middle."""
    g = torch.Generator().manual_seed(0)
    points = points_on(truth.vertices, truth.faces, POINTS, g)
    points = points[points[:, 1] < -0.12]
    near, _ = KDTree(points_on(vertices, faces, POINTS, g).numpy()).query(points.numpy())
    return float((near < 0.05 * radius(truth)).mean())


def radius(s: Solid) -> float:
    return float(s.vertices.norm(dim=1).max())


def euler(faces: Tensor) -> int:
    f = faces.long()
    edges = torch.cat([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]]).sort(1).values
    return len(f.unique()) - len(edges.unique(dim=0)) + len(f)


def measured(name: str, kind: str, made: tuple[Tensor, Tensor], truth: Solid, seconds: float) -> dict[str, Any]:
    scale = 1 / radius(truth)
    unit = dataclasses.replace(truth, vertices=truth.vertices * scale)
    out = surface_metrics(made[0] * scale, made[1], unit)
    row: dict[str, Any] = {"object": name, "fitted": kind} | {k: round(out[k], 4) for k in COLUMNS}
    row |= {"genus": 1 - euler(made[1]) // 2, "faces": len(made[1]), "seconds": round(seconds, 1)}
    return row | ({"legs": round(legs_kept(*made, truth), 4)} if name == "chair" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=None, help="the training pack")
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for the numbers")
    a = parser.parse_args()
    cameras, found = around(a.views), list[dict[str, Any]]()
    for name, truth in objects(a.data).items():
        frames = solid_frames(truth, cameras, a.size)
        recipe = dataclasses.replace(DirectRecipe(), views=a.views)
        hull = hull_mesh(frames, cameras, recipe, 0.02)
        start = hull.vertices, hull.faces
        for kind, grid in KINDS.items():
            began = time.perf_counter()
            made = start if grid is None else fitted(start, frames, cameras, grid)
            found.append(measured(name, kind, made, truth, time.perf_counter() - began))
            print(" · ".join(f"{k} {v}" for k, v in found[-1].items()), flush=True)
            if a.out:
                a.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
