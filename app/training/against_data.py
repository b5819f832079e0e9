"""What only the training pack can tell (users do not have it): distance of samples to real renders, and memory.

Real renders have the samples' own cameras. Kernel distance: unbiased polynomial MMD on the evaluator's features,
against the evaluator's held-out families; its noise floor is held-out against training renders of as many objects.
Memory: cosine distance of each sample's views to their nearest view of any object of the pack's training families,
against the same for held-out renders: samples much nearer than held-out objects are copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.evaluate.consistency import fifth_views, five_cameras
from app.evaluate.measure import Record
from app.evaluate.network import Evaluator
from app.evaluate.nouns import classes, eval100
from app.evaluate.prior import Sampling
from app.evaluate.statistics import kernel_distance, mean_interval, nearest
from app.evaluate.views import SIZE, coloured_frames
from app.export.preview import save_png
from app.training.data import Pack, family_weights, load_pack, split_families
from app.training.labels import label, split
from app.training.novel_view import novel_views
from guidance.priors.embedded import EmbeddedPrior
from guidance.settings import VIEWS
from renderers.cameras import make_cameras
from renderers.snapshot import snapshots

MEMORY_PROMPTS, EXACT = 20, 20


@dataclass(frozen=True)
class Real:
    """Features (objects * 4, 256) of real renders from the samples' cameras and of the objects that they show."""

    pack: Pack
    training: list[int]
    held_out: list[int]
    training_features: Tensor
    held_out_features: Tensor
    elevation: float


def _frames(pack: Pack, indices: list[int], elevation: float) -> Tensor:
    azimuth = (torch.arange(VIEWS) * (2 * math.pi / VIEWS)).repeat(len(indices))
    cameras = make_cameras(azimuth, torch.tensor([math.radians(elevation)]))
    return torch.from_numpy(snapshots([pack.mesh(i) for i in indices for _ in range(VIEWS)], cameras, SIZE))


def load_real(evaluator: Evaluator, data: Path, elevation: float = 15.0) -> Real:
    """Render all objects of the pack from four sides and look at them (about half a minute)."""
    pack = load_pack(data)
    training, held_out = split(pack.rows, set(classes(eval100())))

    def features(indices: list[int]) -> Tensor:
        blocks = (indices[k : k + 64] for k in range(0, len(indices), 64))
        return torch.cat([evaluator(_frames(pack, b, elevation), ["thing"]).features for b in blocks])

    return Real(pack, training, held_out, features(training), features(held_out), elevation)


def _of(features: Tensor, objects: list[int] | Tensor) -> Tensor:
    return features.reshape(-1, VIEWS, features.shape[1])[objects].flatten(0, 1)


def kernel_distances(real: Real, samples: Tensor, seed: int = 0, repeats: int = 20) -> dict[str, Any]:
    """Of sample features (N, 256) to real held-out renders, and the floor: held-out against as many training objects,
    drawn `repeats` times by 1 / sqrt(family size)."""
    distance = kernel_distance(samples, real.held_out_features, VIEWS)
    generator = np.random.default_rng(seed)
    weights = family_weights(real.pack.rows, real.training)
    count = min(len(real.held_out), len(real.training))
    floor = []
    for _ in range(repeats):
        drawn = generator.choice(len(real.training), count, replace=False, p=weights)
        floor.append(kernel_distance(_of(real.training_features, drawn.tolist()), real.held_out_features, VIEWS))
    return {
        "samples_to_held_out": distance,
        "floor_training_to_held_out": float(np.mean(floor)),
        "floor_standard_deviation": float(np.std(floor)),
        "sample_views": len(samples),
        "held_out_views": len(real.held_out_features),
    }


def memory(real: Real, samples: list[tuple[str, Tensor, Tensor]], out: Path | None) -> dict[str, Any]:
    """`samples`: (prompt, frames (V, 7, 64, 64), features (V, 256)). Distances of views to their nearest training
    view; with `out`, writes out/nearest.png: each sample's views above their nearest training views."""
    held, _ = nearest(real.held_out_features, real.training_features)
    rows, pictures, all_distances = [], [], []
    for prompt, frames, features in samples:
        distance, index = nearest(features, real.training_features)
        objects = [real.training[int(i) // VIEWS] for i in index]
        all_distances += distance.tolist()
        rows.append(
            {
                "prompt": prompt,
                "distance": float(distance.mean()),
                "nearest": [real.pack.rows[i]["name"] for i in objects],
                "classes": [label(real.pack.rows[i]["name"]) for i in objects],
            }
        )
        views = [_frames(real.pack, [i], real.elevation)[int(k) % VIEWS] for i, k in zip(objects, index, strict=True)]
        pictures += [frames[:, :3], torch.stack(views)[:, :3]]
    if out is not None:
        # two columns of samples, so that twenty fit on a screen
        pairs = [
            torch.cat([pictures[k + j], pictures[k + 2 + j]]) for k in range(0, len(pictures) - 3, 4) for j in (0, 1)
        ]
        if len(pictures) % 4:
            pairs += pictures[-2:]
        save_png(out / "nearest.png", pairs)
    return {
        "samples_to_training": mean_interval(all_distances),
        "held_out_to_training": mean_interval(held.tolist()),
        "share_of_sample_views_nearer_than_the_nearest_5_percent_of_held_out": float(
            (torch.tensor(all_distances) < held.quantile(0.05)).float().mean()
        ),
        "by_prompt": rows,
    }


def against_data(
    evaluator: Evaluator,
    prior: EmbeddedPrior,
    how: Sampling,
    seed: int,
    items: Sequence[tuple[Record, Tensor]],
    data: Path,
    out: Path | None,
) -> dict[str, Any]:
    """Kernel distance, memory, consistency and novel views of samples `items`; pictures of the last three into
    `out`."""
    real = load_real(evaluator, data, how.elevation)
    features = [evaluator(frames, ["thing"]).features for _, frames in items]
    some = list(range(0, len(items), max(1, len(items) // MEMORY_PROMPTS)))[:MEMORY_PROMPTS]
    chosen = [(items[i][0].prompt.text, items[i][1], features[i]) for i in some]
    held_out, cameras = split_families(real.pack.rows)[1], five_cameras(how.elevation)
    exact = [held_out[k * len(held_out) // EXACT] for k in range(EXACT)]
    frames = [coloured_frames(real.pack.mesh(i), cameras) for i in exact]
    consistency, fives = fifth_views(prior, [prompt for prompt, _, _ in chosen], how, seed, frames)
    novel, nines = novel_views(prior, real.pack, seed=seed, steps=how.steps)
    if out is not None:
        save_png(out / "consistency.png", [x[:, :3] for x in fives])
        save_png(out / "novel_views.png", [x[:, :3] for x in nines[:20]])
    return {
        "kernel_distance": kernel_distances(real, torch.cat(features), seed),
        "memory": memory(real, chosen, out),
        "consistency": consistency,
        "novel_views": novel,
    }
