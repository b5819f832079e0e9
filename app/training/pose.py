"""Train the pose network: `python -m app.training.pose --data ../shared/data --out assets/pose`.

Renders of training objects from random sides, lit as photographs, reduced to what a cut-out tells
(app/pictures/pose.py). Loss: smooth L1 of elevation, scale and centre, each in its own unit.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import save
from torch import Tensor

from app.pictures.pose import FILL, SIZE, Pose, PoseNet, encode, estimate, silhouette_box
from app.training.augment import mirrored
from app.training.data import Pack, family_weights, load_pack, split_families
from app.training.photograph import photograph, ragged
from guidance.settings import PICTURE_ELEVATIONS
from renderers.cameras import make_cameras
from renderers.frames import reframed
from renderers.snapshot import compile_kernels, snapshots

RENDER = 96
LOW, HIGH = (math.radians(e) for e in PICTURE_ELEVATIONS)


@dataclass(frozen=True)
class Arguments:
    """Train the pose network on the low-poly pack."""

    data: Path = Path("../shared/data")
    out: Path = Path("assets/pose")
    steps: int = 4000
    batch: int = 64
    rate: float = 1.5e-3
    width: int = 32
    seed: int = 0


def examples(
    pack: Pack, indices: list[int], azimuth: Tensor, elevation: Tensor, mirror: Tensor, generator: torch.Generator
) -> tuple[Tensor, Pose]:
    """Cut-outs (B, 4, 64, 64) of objects seen from (B,) azimuths and elevations, and their poses."""
    meshes = [mirrored(pack.mesh(i)) if m else pack.mesh(i) for i, m in zip(indices, mirror.tolist(), strict=True)]
    frames = torch.from_numpy(snapshots(meshes, make_cameras(azimuth, elevation), RENDER))
    picture = ragged(photograph(frames, generator), 0.3, generator)
    centre, extent = silhouette_box(picture[:, 3:4])
    cut = reframed(picture, FILL / extent, centre)[:, :4]
    return F.interpolate(cut, (SIZE, SIZE), mode="area"), Pose(elevation, (extent / FILL), centre)


def errors(net: PoseNet, cutouts: Tensor, pose: Pose) -> dict[str, float]:
    """Median absolute errors: elevation in degrees, scale in percent, centre in halves of the picture."""
    found = estimate(net, cutouts)
    return {
        "elevation": float((found.elevation - pose.elevation).abs().median().rad2deg()),
        "scale": float(100 * (found.scale / pose.scale).log().abs().median()),
        "centre": float((found.centre - pose.centre).norm(dim=1).median()),
    }


def export(net: PoseNet, out: Path, width: int, numbers: dict[str, float]) -> None:
    """bfloat16 weights and config.json."""
    data = save({k: v.to(torch.bfloat16) for k, v in net.state_dict().items()})
    out.mkdir(parents=True, exist_ok=True)
    (out / "pose.safetensors").write_bytes(data)
    config = {"width": width, "sha256": hashlib.sha256(data).hexdigest(), "held_out_median_errors": numbers}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    a = tyro.cli(Arguments)
    compile_kernels()
    pack = load_pack(a.data)
    training, held_out = split_families(pack.rows)
    cumulative = np.cumsum(family_weights(pack.rows, training))
    generator = torch.Generator().manual_seed(a.seed)
    net = PoseNet(a.width)
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() > 1:
                p.normal_(0, math.sqrt(2 / p[0].numel()), generator=generator)
    net.out.weight.data.mul_(0.1)
    adam = torch.optim.AdamW(net.parameters(), lr=a.rate, weight_decay=0.02)

    def draw(pool: list[int], count: int, g: torch.Generator) -> tuple[Tensor, Pose]:
        u = torch.rand(count, 4, generator=g, dtype=torch.float64)
        if pool is training:
            picked = np.searchsorted(cumulative, u[:, 0].numpy()).clip(max=len(pool) - 1).tolist()
        else:
            picked = [k * len(pool) // count for k in range(count)]
        azimuth, elevation = (2 * math.pi * u[:, 1]).float(), (LOW + (HIGH - LOW) * u[:, 2]).float()
        return examples(pack, [pool[i] for i in picked], azimuth, elevation, u[:, 3] < 0.5, g)

    test = draw(held_out, 4 * len(held_out), torch.Generator().manual_seed(1))
    begin = time.perf_counter()
    for i in range(a.steps):
        cutouts, pose = draw(training, a.batch, generator)
        for group in adam.param_groups:
            group["lr"] = a.rate * min(1, (i + 1) / 100) * 0.5 * (1 + math.cos(math.pi * i / a.steps))
        target = encode(pose)
        loss = F.smooth_l1_loss(net(cutouts), target, beta=0.5)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        if (i + 1) % 250 == 0 or i + 1 == a.steps:
            numbers = errors(net.eval(), *test)
            net.train()
            seconds = time.perf_counter() - begin
            sys.stderr.write(
                f"step {i + 1} · {seconds:.0f} s · loss {float(loss.detach()):.4f} · held out {numbers}\n"
            )
            export(net, a.out, a.width, numbers)


if __name__ == "__main__":
    main()
