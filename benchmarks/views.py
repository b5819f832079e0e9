"""How many views direct needs: `python -m benchmarks.views --data ../shared/data`.

Exact frames of held-out objects from direct's own cameras, fused as direct fuses sampled ones, against the truth:
4 around, 5 (the fifth from above), 8 around. What the views lose by themselves, without any prior. Means over objects,
and the paired difference to 4 views with its 95 % bootstrap interval.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from app.errors import CollapseError
from app.evaluate.statistics import interval_text, mean_interval
from app.models import load_prior
from app.pipeline import fuse
from app.recipes import DirectRecipe, Recipe
from app.run.folder import create_run, generators
from app.run.progress import Progress
from app.run.work import Clock, Work
from app.stages.sample import direct_cameras
from app.training.data import load_pack
from benchmarks.single_view_metrics import surface_metrics
from benchmarks.single_view_scenes import chosen, solid_of
from renderers.snapshot import snapshots

METRICS = ("Chamfer", "F@0.02", "F@0.05", "F@0.1")


@dataclass(frozen=True)
class Arguments:
    """Compare numbers of views on exact frames."""

    data: Path = Path("../shared/data")
    count: int = 20
    views: tuple[int, ...] = (4, 5, 8)
    out: Path | None = None
    """Every object's numbers, as JSON."""


def main() -> None:
    a = tyro.cli(Arguments)
    pack = load_pack(a.data)
    cpu = torch.device("cpu")
    prior = load_prior("embedded", cpu)  # a run has one; nothing is sampled here
    rows = []
    for index in chosen(pack, a.count, "tune"):
        truth = solid_of(pack, index)
        row: dict[Any, Any] = {"name": pack.rows[index]["name"]}
        for views in a.views:
            recipe = Recipe("views", method="direct", direct=DirectRecipe(views=views))
            cameras = direct_cameras(recipe.direct)
            frames = torch.from_numpy(snapshots([pack.mesh(index)] * views, cameras, 64))
            with tempfile.TemporaryDirectory() as folder:
                run = create_run(recipe, Path(folder) / "run")
                job = Work(recipe, run, Progress(quiet=True), Clock(), lambda: False, prior, cpu)
                try:
                    shape = fuse(job, "", frames, cameras, generators(0))
                    row[views] = surface_metrics(shape.vertices, shape.faces, truth)
                except CollapseError:
                    row[views] = {m: float("nan") for m in METRICS}
        rows.append(row)
        print(row["name"], *(f"{v}: {row[v]['F@0.05']:.3f}" for v in a.views), flush=True)
    whole = [r for r in rows if all(r[v]["Chamfer"] == r[v]["Chamfer"] for v in a.views)]
    print(
        f"\n{len(whole)} of {len(rows)} objects\n\n| views | "
        + " | ".join(METRICS)
        + " |\n|---|"
        + "---|" * len(METRICS)
    )
    for v in a.views:
        cells = [sum(r[v][m] for r in whole) / len(whole) for m in METRICS]
        print(f"| {v} | " + " | ".join(f"{c:.3f}" for c in cells) + " |")
    for v in a.views[1:]:
        cells = [interval_text(mean_interval([r[v][m] - r[a.views[0]][m] for r in whole]), digits=3) for m in METRICS]
        print(f"| {v} - {a.views[0]} | " + " | ".join(cells) + " |")
    if a.out is not None:
        a.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
