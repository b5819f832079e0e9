"""Drafts of a list of prompts beside the prior's own samples for them: one picture and one table, chosen by nobody.

    python -m benchmarks.results --method direct --runs .cache/gallery/direct --out docs/pictures

Every run is a `polymode generate` process of its own, with seed 0, where `--runs` does not hold it yet. The picture
has a row a prompt: four frames sampled jointly from the prior (for direct, those that were fused), then the exported
GLB, re-read, from the same four azimuths, shaded, and its normals.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw, ImageFont

from app.evaluate.nouns import eval100
from app.evaluate.prior import Sampling, sample_prompt
from app.export.glb import read_glb
from app.export.preview import render_asset
from app.methods import DIRECT
from app.models import load_prior
from app.run.folder import Run, slug
from guidance.priors.embedded import EmbeddedPrior
from renderers.cameras import orbit
from renderers.raster import make_context

CELL = 112
ELEVATION = math.radians(15)


@dataclass(frozen=True)
class Arguments:
    """Draft every prompt, and tabulate."""

    out: Path
    """Where METHOD.png and METHOD.json go."""
    method: str = "sds"
    count: int = 12
    group: str = "train"
    prior: str = "embedded"
    preset: str = "draft"
    runs: Path | None = None
    """Where the run folders go (kept there, and finished ones are not run again); default a temporary folder."""


def sampled(folder: Path, method: str, prior: EmbeddedPrior, prompt: str) -> torch.Tensor:
    """Four jointly sampled frames (4, 7, S, S): the run's own where it fused any."""
    saved = Run(folder).load_checkpoint("sample") if method == DIRECT else None
    return sample_prompt(prior, prompt, Sampling(), 0)[0] if saved is None else saved[0]["frames"][:4]


def strip(pictures: torch.Tensor) -> Image.Image:
    """(B, 3, H, W) side by side, cells of CELL pixels."""
    cells = [Image.fromarray((p.permute(1, 2, 0).numpy().clip(0, 1) * 255).astype(np.uint8)) for p in pictures]
    row = Image.new("RGB", (CELL * len(cells), CELL))
    for i, cell in enumerate(cells):
        row.paste(cell.resize((CELL, CELL), Image.Resampling.BICUBIC), (i * CELL, 0))
    return row


def main() -> None:
    a = tyro.cli(Arguments)
    prompts = [p.text for p in eval100() if p.group == a.group][: a.count]
    prior = load_prior(a.prior, torch.device("cpu"))
    runs = a.runs or Path(tempfile.mkdtemp(prefix="polymode-results-"))
    a.out.mkdir(parents=True, exist_ok=True)
    table, font = [], ImageFont.load_default(15)
    label, gap = 170, 12
    sheet = Image.new("RGB", (label + 12 * CELL + 2 * gap, 30 + CELL * len(prompts)), (240, 240, 240))
    draw = ImageDraw.Draw(sheet)
    heads = (
        (0, "the prior's own joint samples"),
        (4 * CELL + gap, "the GLB, shaded"),
        (8 * CELL + 2 * gap, "its normals"),
    )
    for x, text in heads:
        draw.text((label + x + 2 * CELL, 15), text, (70, 70, 70), font, anchor="mm")
    for i, prompt in enumerate(prompts):
        folder = runs / slug(prompt)
        row = {"prompt": prompt, "exit": 0}
        if not (folder / "mesh.glb").is_file():
            command = [sys.executable, "-m", "app.cli", "generate", prompt, "--preset", a.preset, "--prior", a.prior]
            command += ["--method", a.method]
            done = subprocess.run(
                [*command, "--out", str(folder), "--json"], capture_output=True, text=True, encoding="utf-8"
            )
            row["exit"] = done.returncode
        m = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        keys = (
            "seconds_prior",
            "seconds_render",
            "seconds_fixed",
            "loop_ratio",
            "ms_per_frame_forward",
            "peak_memory_mb",
        )
        row |= {k: m.get(k) for k in keys} | {"seconds": m["seconds"]["total"], "reason": m.get("reason")}
        table.append(row)
        print(json.dumps(row), flush=True)
        draw.text((8, 30 + (i + 0.5) * CELL), prompt, (30, 30, 30), font, anchor="lm")
        if row["exit"] == 0:
            asset, context = read_glb(folder / "mesh.glb"), make_context("cpu")
            cameras = orbit(4, ELEVATION)
            sheet.paste(
                strip(render_asset(context, asset, cameras, CELL, "lit")), (label + 4 * CELL + gap, 30 + i * CELL)
            )
            normals = render_asset(context, asset, cameras, CELL, "normal")
            sheet.paste(strip(normals), (label + 8 * CELL + 2 * gap, 30 + i * CELL))
        sheet.paste(strip(sampled(folder, a.method, prior, prompt)[:, :3]), (label, 30 + i * CELL))
    sheet.save(a.out / f"{a.method}.png")
    (a.out / f"{a.method}.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
