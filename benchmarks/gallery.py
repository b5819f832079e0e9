"""A method over the fixed prompts, seed 0: run folders, the evaluator's table, one contact sheet, chosen by nobody.

    python -m benchmarks.gallery --method direct --runs .cache/gallery/direct --out docs/pictures
    python -m benchmarks.gallery --method sds --every 5 --runs .cache/gallery/sds --out docs/pictures

All runs share one process (a run's bytes do not depend on what ran before it), so their seconds leave out the imports.
Finished runs are not run again and unfinished ones are resumed: stop it and start it as you like. A run that collapses
counts as the last rank and the wrong colour, and is an empty cell.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from app.errors import CollapseError
from app.evaluate.command import read_prompts
from app.evaluate.measure import Record, measure, qualified, table
from app.evaluate.network import load_evaluator
from app.evaluate.nouns import Prompt, classes, eval100
from app.evaluate.report import contact_sheet, text_table, write_results
from app.evaluate.views import SIZE, asset_frames, own_cameras
from app.pipeline import generate
from app.recipes import preset
from app.run.folder import Run, create_run, slug
from app.run.progress import Progress
from app.run.work import Clock


@dataclass(frozen=True)
class Arguments:
    """Run and evaluate a method over eval100."""

    method: str
    runs: Path
    """Run folders go (and stay) here."""
    out: Path
    """METHOD-gallery.png and METHOD-gallery.json are written here."""
    prompts: Path | None = None
    """A file of prompts instead of eval100."""
    name: str = ""
    """Instead of METHOD in the files' names."""
    every: int = 1
    """Every n-th prompt, from the first."""
    preset: str = "draft"
    seed: int = 0


def empty_frames(count: int) -> Tensor:
    """(count, 7, 64, 64) frames of nothing: mid-grey, alpha 0."""
    frames = torch.full((count, 7, SIZE, SIZE), 0.5)
    frames[:, 3] = 0
    return frames


def nothing(p: Prompt, count: int, source: str) -> Record:
    """The record of a run that made nothing."""
    wrong = None if p.color is None else False
    return Record(p, source, count, count, ["nothing"], wrong, None, None, None, None)


def main() -> None:
    a = tyro.cli(Arguments)
    prompts, name = read_prompts(a.prompts)[:: a.every], a.name or a.method
    evaluator, cameras, kinds = load_evaluator(), own_cameras(), classes([*eval100(), *read_prompts(a.prompts)])
    real_back, items, failed, seconds = qualified(evaluator), [], {}, []
    for i, p in enumerate(prompts):
        folder = a.runs / slug(p.text)
        if not (folder / "mesh.glb").is_file():
            recipe = dataclasses.replace(preset(a.preset, p.text), method=a.method, seed=a.seed)
            run = Run(folder) if (folder / "config.yaml").is_file() else create_run(recipe, folder)
            try:
                generate(recipe, run, Progress(), Clock())
            except CollapseError as e:
                failed[p.text] = str(e)
                items.append((nothing(p, len(kinds), str(folder)), empty_frames(len(cameras))))
                continue
        seconds.append(json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["seconds"]["total"])
        frames = asset_frames(folder / "mesh.glb", cameras)
        items.append((measure(evaluator, frames, cameras.azimuth, p, kinds, str(folder), real_back), frames))
        sys.stderr.write(f"{i + 1}/{len(prompts)} {p.text}: rank {items[-1][0].rank}, {seconds[-1]:.0f} s\n")
    records = [r for r, _ in items]
    a.out.mkdir(parents=True, exist_ok=True)
    contact_sheet(a.out / f"{name}-gallery.png", items, columns=5)
    results = {"method": a.method, "preset": a.preset, "seed": a.seed, "failed": failed, "table": table(records)}
    results |= {"seconds": {"median": float(np.median(seconds)), "worst": max(seconds)}}
    write_results(a.out / f"{name}-gallery.json", results | {"records": [r.row() for r in records]})
    print(text_table(results["table"]))
    print(f"median {results['seconds']['median']:.1f} s, worst {max(seconds):.1f} s; failed: {failed or 'none'}")


if __name__ == "__main__":
    main()
