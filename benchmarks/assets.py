"""Finished assets, looked into: ten fixed prompts by three methods, each at three counts of triangles.

    python -m benchmarks.assets --runs .cache/assets make --methods direct
    python -m benchmarks.assets --runs .cache/assets table --out docs/pictures/assets.json

`make` runs the pipeline up to the texture and keeps each surface with its colours (PROMPT-METHOD.npz); those that are
there are not made again. `table` decimates, finishes and writes every file, and reads it back.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from app.candidates import Shape
from app.errors import CollapseError
from app.evaluate.nouns import eval100
from app.pipeline import candidate
from app.recipes import preset
from app.run.folder import create_run, slug
from app.run.progress import Progress
from app.run.work import Clock, Work

METHODS = ("direct", "sds", "dsd")
EVERY = 10  # of the fixed prompts
POINTS = torch.tensor([[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4]]) / torch.tensor([[3.0], [6], [6], [6]])


@dataclass(frozen=True)
class Make:
    """Grow the surfaces."""

    methods: tuple[str, ...] = METHODS
    every: int = EVERY
    first: int = 0


@dataclass(frozen=True)
class Arguments:
    """Look into finished assets."""

    runs: Path
    """Surfaces are kept here."""
    do: Make


def samples(shape: Shape) -> tuple[Tensor, Tensor]:
    """Four points on each face (4F, 3), and their colours (4F, 3)."""
    corners = shape.faces.long()
    points = (POINTS @ shape.vertices[corners]).reshape(-1, 3)
    if shape.attributes is None:
        return points, shape.texture(points)
    attributes = (POINTS @ shape.attributes[corners]).reshape(len(points), -1)
    return points, shape.texture(torch.cat([points, attributes], 1))


def make(a: Arguments, do: Make) -> None:
    from app.models import load_prior

    a.runs.mkdir(parents=True, exist_ok=True)
    prior = load_prior("embedded", torch.device("cpu"), "float32")
    for method in do.methods:
        for p in eval100()[do.first :: do.every]:
            path = a.runs / f"{slug(p.text)}-{method}.npz"
            if path.is_file():
                continue
            recipe = dataclasses.replace(preset("draft", p.text), method=method)
            with tempfile.TemporaryDirectory() as folder:
                run = create_run(recipe, Path(folder) / "run")
                progress = Progress(quiet=True)
                job = Work(recipe, run, progress, Clock(), lambda: False, prior, torch.device("cpu"))
                try:
                    shape = candidate(job, 0, recipe.seed).shape
                except CollapseError as e:
                    print(f"{path.stem}: {e}", flush=True)
                    continue
            assert shape is not None
            points, colors = samples(shape)
            arrays = {"v": shape.vertices, "f": shape.faces, "points": points, "colors": colors}
            np.savez(path, **{k: x.detach().numpy() for k, x in arrays.items()})
            print(f"{path.stem}: {len(shape.faces)} faces", flush=True)


def main() -> None:
    a = tyro.cli(Arguments)
    make(a, a.do)


if __name__ == "__main__":
    main()
