"""Single-view reconstruction of held-out objects: `python -m benchmarks.single_view --data ../shared/data --out DIR`.

`polymode reconstruct` on pictures of objects that the prior never saw, beside two measured baselines on the same
pictures (benchmarks/single_view_scenes.py), by benchmarks/single_view_metrics.py. Writes results.json, tables, and
contact_sheet.png of the first 24: the picture, four views, the same of the truth. Resumable: one file an object.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from PIL import Image

from app.errors import UserError
from app.evaluate.network import Evaluator, load_evaluator
from app.evaluate.statistics import interval_text, mean_interval
from app.export.glb import read_glb
from app.export.preview import render_asset, save_png
from app.pictures.intake import load
from app.pipeline import generate
from app.recipes import Recipe, picture_preset
from app.reconstruct import picture_recipe, prepare
from app.run.folder import Run
from app.run.progress import Progress
from app.training.data import load_pack
from benchmarks.single_view_metrics import F_AT, SIZE, picture_metrics, solid_frames, surface_metrics, unseen_views
from benchmarks.single_view_scenes import HARDER, Nearest, Scene, chosen, extruded, make_scene
from renderers.cameras import Cameras, orbit
from renderers.raster import RasterizeCpuContext

METRICS = ("PSNR", "SSIM", "perceptual", "IoU", "Chamfer", *(f"F@{d:g}" for d in F_AT))
LOWER = ("perceptual", "Chamfer")
OURS, EXTRUDED, NEAREST = "polymode", "extruded silhouette", "nearest training object"
SHEET = 24


@dataclass(frozen=True)
class Arguments:
    """Measure single-view reconstruction on held-out objects."""

    data: Path = Path("../shared/data")
    out: Path = Path(".cache/single_view")
    count: int = 48
    part: str = "bench"
    """bench, or tune: other held-out objects, on which settings are chosen."""
    harder: str = ""
    """Harder pictures: background, light, shadow, jpeg or crop."""
    depth: float = 0.6
    """Depth of the extruded silhouette, in smaller sides of its bounding box."""
    true_elevation: bool = False
    """Give the true elevation instead of estimating it."""
    prompt: bool = False
    """Give the object's name."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=lambda: picture_preset("draft"))


def asset_frames(path: Path, cameras: Cameras, size: int = SIZE) -> torch.Tensor:
    """(B, 7, size, size) of an exported GLB: base colour on mid-grey, alpha; normals mid-grey."""
    context, asset = RasterizeCpuContext(), read_glb(path)
    black, white = (render_asset(context, asset, cameras, size, "base_color", g) for g in (0.0, 1.0))
    alpha = (1 - (white - black).mean(1, keepdim=True)).clamp(0, 1)
    return torch.cat([black + 0.5 * (1 - alpha), alpha, torch.full_like(black, 0.5)], 1)


def reconstruct(scene: Scene, a: Arguments, folder: Path) -> tuple[Run, dict[str, Any]]:
    """The product's own path; its run folder stays."""
    picture = a.recipe.picture
    if a.true_elevation:
        picture = dataclasses.replace(picture, elevation=(round(scene.elevation * 180 / torch.pi, 2),))
    recipe = dataclasses.replace(a.recipe, picture=picture, prompt=scene.name if a.prompt else "")
    recipe = picture_recipe(recipe, 1)
    run = prepare([scene.picture], recipe, folder)
    return run, generate(recipe, run, Progress())


def measure(scene: Scene, a: Arguments, near: Nearest, evaluator: Evaluator, folder: Path) -> dict[str, Any]:
    """All metrics of the three answers to one scene."""
    cameras = unseen_views()
    truth = solid_frames(scene.truth, cameras)
    begin = time.perf_counter()
    try:
        run, metadata = reconstruct(scene, a, folder)
    except UserError as e:
        return {"name": scene.name, "index": scene.index, "failed": str(e)}
    seconds = time.perf_counter() - begin
    asset = read_glb(run.folder / "mesh.glb")
    reference = load(run, 64)
    out: dict[str, Any] = {"name": scene.name, "index": scene.index, "seconds": seconds}
    out["elevation error"] = abs(metadata["pictures"][0]["elevation"] - scene.elevation * 180 / torch.pi)
    out["reference"] = metadata["pictures"][0]
    frames = asset_frames(run.folder / "mesh.glb", cameras)
    out[OURS] = picture_metrics(frames, truth, evaluator) | surface_metrics(asset.vertices, asset.faces, scene.truth)
    for name, solid in ((EXTRUDED, extruded(reference, a.depth)), (NEAREST, near(reference))):
        frames = solid_frames(solid, cameras)
        out[name] = picture_metrics(frames, truth, evaluator)
        out[name] |= surface_metrics(solid.vertices, solid.faces, scene.truth)
    return out


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means with intervals over objects, medians, and paired differences to the better baseline."""
    done = [r for r in rows if "failed" not in r]
    lines = [f"{len(done)} objects, {len(rows) - len(done)} without a result", ""]
    lines += [
        "| mean [95 %] | " + " | ".join((OURS, EXTRUDED, NEAREST)) + " | ours better in |",
        "|---|---|---|---|---|",
    ]
    for m in METRICS:
        sign = -1 if m in LOWER else 1
        cells = []
        for who in (OURS, EXTRUDED, NEAREST):
            cells.append(interval_text(mean_interval([r[who][m] for r in done]), 1, 3))
        wins = [all(sign * (r[OURS][m] - r[w][m]) > 0 for w in (EXTRUDED, NEAREST)) for r in done]
        lines.append(f"| {m} | " + " | ".join(cells) + f" | {100 * sum(wins) / max(1, len(wins)):.0f} % |")
    lines += ["", "| median | " + " | ".join((OURS, EXTRUDED, NEAREST)) + " |", "|---|---|---|---|"]
    for m in METRICS:
        lines.append(
            f"| {m} | "
            + " | ".join(f"{statistics.median(r[w][m] for r in done):.3f}" for w in (OURS, EXTRUDED, NEAREST))
            + " |"
        )
    for what, get in (
        ("seconds", lambda r: r["seconds"]),
        ("elevation error, degrees", lambda r: r["elevation error"]),
        ("input view, PSNR", lambda r: r["reference"]["psnr"]),
        ("input view, silhouette IoU", lambda r: r["reference"]["silhouette_iou"]),
    ):
        values = [get(r) for r in done]
        lines.append(
            f"{what}: median {statistics.median(values):.2f}, mean {statistics.mean(values):.2f}, "
            f"worst {(min if 'view' in what else max)(values):.2f}"
        )
    return "\n".join(lines) + "\n"


def sheet_row(scene: Scene, glb: Path) -> list[torch.Tensor]:
    """(1 + 4 + 4) pictures of 96 pixels: the input, the answer, the truth."""
    cameras = orbit(4)
    with Image.open(scene.picture) as image:
        pixels = torch.from_numpy(np.asarray(image.convert("RGB").resize((96, 96)))).permute(2, 0, 1)
    mine = render_asset(RasterizeCpuContext(), read_glb(glb), cameras, 96, "lit")
    truth = solid_frames(scene.truth, cameras, 96)
    shade = 0.55 + 0.45 * (2 * truth[:, 5:6] - 1).clamp(min=0) * truth[:, 3:4] + 0.0
    lit = truth[:, :3] * (shade * truth[:, 3:4] + 1 - truth[:, 3:4]) + 0.44 * (1 - truth[:, 3:4])
    return [torch.cat([pixels[None] / 255, mine, lit.clamp(0, 1)])]


def main() -> None:
    a = tyro.cli(Arguments)
    if a.harder and a.harder not in HARDER:
        raise SystemExit(f"--harder is one of {', '.join(HARDER)}")
    pack, evaluator = load_pack(a.data), load_evaluator()
    near = Nearest(pack, evaluator, Path(".cache/single_view_bank.safetensors"))
    rows, sheet = [], []
    (a.out / "objects").mkdir(parents=True, exist_ok=True)
    for k, index in enumerate(chosen(pack, a.count, a.part)):
        scene = make_scene(pack, index, a.out / "pictures", harder=a.harder)
        path, folder = a.out / "objects" / f"{index:04d}.json", a.out / "runs" / f"{index:04d}"
        if not path.is_file():
            if folder.exists():
                folder = folder.with_name(f"{folder.name}-{int(time.time())}")
            path.write_text(
                json.dumps(measure(scene, a, near, evaluator, folder) | {"folder": str(folder)}, indent=1),
                encoding="utf-8",
            )
        row = json.loads(path.read_text(encoding="utf-8"))
        rows.append(row)
        if k < SHEET and "failed" not in row:
            sheet += sheet_row(scene, Path(row["folder"]) / "mesh.glb")
        sys.stderr.write(f"{k + 1}: {scene.name}\n")
    text = table(rows)
    (a.out / "tables.md").write_text(text, encoding="utf-8")
    (a.out / "results.json").write_text(json.dumps({"arguments": str(a), "rows": rows}, indent=1), encoding="utf-8")
    save_png(a.out / "contact_sheet.png", sheet, scale=1)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
