"""Finished assets, looked into: ten fixed prompts by three methods, each at three counts of triangles.

    python -m benchmarks.assets --runs .cache/assets do:make --do.methods direct
    python -m benchmarks.assets --runs .cache/assets do:table --do.out .cache/assets.json
    python -m benchmarks.assets --runs .cache/assets do:sheet --do.out .cache/lowpoly.png

`make` runs the pipeline up to the texture and keeps each surface with its colours (PROMPT-METHOD.npz); those that are
there are not made again. `table` decimates, unwraps, bakes and writes every file, and looks into what it reads back;
files that were looked into are not looked into again. `sheet` puts the smooth finish beside the low-poly one, and
measures one against the other. The Khronos validator's columns need its folder in GLTF_VALIDATOR
(`npm install gltf-validator`, then its node_modules/gltf-validator) and node.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
import tyro
from torch import Tensor

from app.candidates import Shape
from app.errors import CollapseError
from app.evaluate.nouns import eval100
from app.evaluate.statistics import psnr_in_masks
from app.export.bake import bake
from app.export.glb import read_glb, textured, write_glb
from app.export.lowpoly import LowPoly, low_poly, surface_colors
from app.export.preview import render_asset, save_png
from app.export.unwrap import Unwrapped, unwrap
from app.pipeline import candidate
from app.recipes import FinishRecipe, preset
from app.run.folder import create_run, slug
from app.run.progress import Progress
from app.run.work import Clock, Work
from benchmarks.readback import read_back
from renderers.cameras import orbit
from renderers.decimate import decimate
from renderers.raster import RasterizeCpuContext, make_context
from renderers.topology import faults, volumes

METHODS = ("direct", "sds", "dsd")
COUNTS = (10_000, 1000, 300)
ATLAS = 1024
VALIDATE = """
const validator = require(process.argv[1]), fs = require('fs');
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2]))).then(
  r => console.log(JSON.stringify([r.issues.numErrors, r.issues.numWarnings])));
"""


@dataclass(frozen=True)
class Make:
    """Grow the surfaces."""

    methods: tuple[str, ...] = METHODS
    every: int = 10
    """Every n-th of the fixed prompts."""


@dataclass(frozen=True)
class Table:
    """Write and read back each surface at every count."""

    out: Path
    """JSON, a row a file; it grows as they are looked into."""
    every: int = 10
    methods: tuple[str, ...] = METHODS


@dataclass(frozen=True)
class Sheet:
    """Smooth beside low-poly."""

    out: Path
    """PNG; the numbers go beside it, as JSON."""
    method: str = "direct"
    count: int = 24


@dataclass(frozen=True)
class Arguments:
    """Look into finished assets."""

    runs: Path
    """Surfaces are kept here."""
    do: Make | Table | Sheet


def make(a: Arguments, do: Make) -> None:
    from app.models import load_prior

    a.runs.mkdir(parents=True, exist_ok=True)
    prior = load_prior("embedded", torch.device("cpu"), "float32")
    for method in do.methods:
        for p in eval100()[:: do.every]:
            path = a.runs / f"{slug(p.text)}-{method}.npz"
            if path.is_file():
                continue
            recipe = dataclasses.replace(preset("draft", p.text), method=method)
            with tempfile.TemporaryDirectory() as folder:
                run = create_run(recipe, Path(folder) / "run")
                job = Work(recipe, run, Progress(quiet=True), Clock(), lambda: False, prior, torch.device("cpu"))
                try:
                    shape = candidate(job, 0, recipe.seed).shape
                except CollapseError as e:
                    print(f"{path.stem}: {e}", flush=True)
                    continue
            assert shape is not None
            points, colors = surface_colors(shape.vertices, shape.faces, shape.texture, shape.attributes)
            kept = [x.detach().numpy() for x in (shape.vertices, shape.faces, points, colors)]
            np.savez(path, v=kept[0], f=kept[1], points=kept[2], colors=kept[3])
            print(f"{path.stem}: {len(shape.faces)} faces", flush=True)


def surfaces(runs: Path, methods: tuple[str, ...], every: int) -> Iterator[tuple[str, Shape, Tensor]]:
    """Name, shape and colours (F, P, 3) of each kept surface."""
    for method in methods:
        for p in eval100()[::every]:
            path = runs / f"{slug(p.text)}-{method}.npz"
            if path.is_file():
                kept = {k: torch.from_numpy(x) for k, x in np.load(path).items()}
                points, colors = (kept[k].reshape(-1, 3) for k in ("points", "colors"))
                color = looked_up(points, colors)
                yield path.stem, Shape(kept["v"], kept["f"], color, color), colors.reshape(len(kept["f"]), -1, 3)


def looked_up(points: Tensor, colors: Tensor) -> Callable[[Tensor], Tensor]:
    """The colours of the nearest points, blended."""
    from scipy.spatial import KDTree

    tree = KDTree(points.numpy())

    def color(at: Tensor) -> Tensor:
        far, near = tree.query(at.numpy(), k=4)
        w = torch.from_numpy(1 / (far + 1e-6)).float()
        return (colors[torch.from_numpy(near)] * (w / w.sum(1, keepdim=True))[..., None]).sum(1)

    return color


def smooth(shape: Shape, faces: int, path: Path) -> Unwrapped:
    """Decimated, unwrapped, baked and written."""
    v, f = decimate(shape.vertices, shape.faces, faces)
    atlas = unwrap(v, f, ATLAS)
    write_glb(path, textured(atlas, bake(make_context("cpu"), shape.texture, atlas, ATLAS)))
    return atlas


def examined(path: Path) -> dict[str, Any]:
    """What a GLB is, read back by trimesh, corners at one place welded."""
    mesh = trimesh.load_mesh(path)
    assert isinstance(mesh, trimesh.Trimesh)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    found = faults(np.asarray(mesh.faces, np.int64))
    volume = float(volumes(np.asarray(mesh.vertices, float), np.asarray(mesh.faces, np.int64)).sum())
    return {
        "faces": len(mesh.faces),
        "nonmanifold": found.nonmanifold_edges,
        "doubled": found.doubled_faces,
        "open": found.open_edges,
        "watertight": bool(mesh.is_watertight),
        "components": int(mesh.body_count),
        "flipped": volume < 0,
        "empty": len(mesh.faces) == 0,
    } | validated(path)


def validated(path: Path) -> dict[str, int]:
    """Errors and warnings of the Khronos validator, where it is installed."""
    folder = os.environ.get("GLTF_VALIDATOR")
    if not folder:
        return {}
    done = subprocess.run(["node", "-e", VALIDATE, folder, str(path)], capture_output=True, check=True)
    errors, warnings = json.loads(done.stdout)
    return {"errors": errors, "warnings": warnings}


def texel_use(atlas: Unwrapped) -> float:
    """Share of the atlas that charts cover."""
    a, b, c = (atlas.uv[atlas.faces[:, k].long()].double() for k in range(3))
    (x, y), (s, t) = (b - a).T, (c - a).T
    return float((x * t - y * s).abs().sum() / 2)


def table(a: Arguments, do: Table) -> None:
    rows: list[dict[str, Any]] = json.loads(do.out.read_text(encoding="utf-8")) if do.out.is_file() else []
    done = {(r["name"], r["finish"], r["asked"]) for r in rows}
    for name, shape, colors in surfaces(a.runs, do.methods, do.every):
        for finish, count in (*(("smooth", c) for c in COUNTS), ("lowpoly", FinishRecipe().faces)):
            if (name, finish, count) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "mesh.glb"
                if finish == "smooth":
                    atlas = smooth(shape, count, path)
                    extra = {"charts": atlas.charts, "texels": round(texel_use(atlas), 3)}
                else:
                    made = finished(shape, colors)
                    write_glb(path, made.mesh)
                    extra = {"colors": len(made.colors)}
                rows.append({"name": name, "finish": finish, "asked": count} | examined(path) | extra)
            do.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(summary(rows))


def finished(shape: Shape, colors: Tensor) -> LowPoly:
    r = FinishRecipe()
    return low_poly(shape.vertices, shape.faces, colors, r.faces, r.colors, r.patch)


def summary(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: a line for each method, finish and count."""
    lines = [
        "| method | finish | faces asked | files | faces | non-manifold edges | doubled faces | watertight |"
        " parts | flipped or empty | charts | texel use | validator's errors, warnings |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((r["name"].rsplit("-", 1)[1], r["finish"], r["asked"]) for r in rows)
    for method, finish, asked in kinds:
        of = [r for r in rows if r["name"].endswith(f"-{method}") and (r["finish"], r["asked"]) == (finish, asked)]

        def total(key: str, of: list[dict[str, Any]] = of) -> int:
            return sum(int(r.get(key, 0)) for r in of)

        def span(key: str, of: list[dict[str, Any]] = of) -> str:
            values = sorted(r[key] for r in of if key in r)
            return f"{values[0]:g} to {values[-1]:g}" if values else ""

        broken = total("flipped") + total("empty")
        seen = f"{total('errors')}, {total('warnings')}" if "errors" in of[0] else "not run"
        lines.append(
            f"| {method} | {finish} | {asked} | {len(of)} | {span('faces')} | {total('nonmanifold')} |"
            f" {total('doubled')} | {total('watertight')} | {span('components')} | {broken} |"
            f" {span('charts')} | {span('texels')} | {seen} |"
        )
    return "\n".join(lines)


def sheet(a: Arguments, do: Sheet) -> None:
    pictures, numbers = [], []
    for name, shape, colors in list(surfaces(a.runs, (do.method,), 1))[: do.count]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mesh.glb"
            smooth(shape, COUNTS[0], path)
            first = read_glb(path)
            made = finished(shape, colors)
            write_glb(path, made.mesh)
            second = read_glb(path)
        psnr, overlap = (float(x.mean()) for x in psnr_in_masks(read_back(first), read_back(second)))
        numbers.append({"name": name, "psnr": round(psnr, 2), "iou": round(overlap, 4), "colors": len(made.colors)})
        print(numbers[-1], flush=True)
        cameras = orbit(5, 0.35)
        seen = [render_asset(RasterizeCpuContext(), m, cameras, 112, "lit")[:2] for m in (first, second)]
        pictures.append(torch.cat(seen))
    columns = 3
    pictures += [torch.ones_like(pictures[0])] * (-len(pictures) % columns)
    save_png(do.out, [torch.cat(pictures[i : i + columns]) for i in range(0, len(pictures), columns)], scale=1)
    do.out.with_suffix(".json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    for key in ("psnr", "iou", "colors"):
        values = sorted(n[key] for n in numbers)
        print(f"{key}: median {np.median(values):.3f}, least {values[0]:.3f}")


def main() -> None:
    a = tyro.cli(Arguments)
    if isinstance(a.do, Make):
        make(a, a.do)
    elif isinstance(a.do, Table):
        table(a, a.do)
    else:
        sheet(a, a.do)


if __name__ == "__main__":
    main()
