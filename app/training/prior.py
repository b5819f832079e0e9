"""Train the embedded prior: `python -m app.training.prior --data ../shared/data --out .cache/train`.

Wires the training pack and the snapshot renderer to guidance/priors/embedded_train.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from safetensors import safe_open
from torch import Tensor

from app.training.augment import PALETTE, Mesh, article, can_recolor, mirrored, recolored, reworded
from app.training.data import Pack, family_weights, load_pack, split_families
from app.training.photograph import misframed, photograph, ragged
from guidance.priors.embedded_sets import TrainConfig
from guidance.priors.embedded_train import TrainState, load_checkpoint, new_state, train
from guidance.priors.text import TextEmbedding, TextEncoder
from renderers.cameras import make_cameras
from renderers.snapshot import compile_kernels, snapshots


@dataclass(frozen=True)
class Augment:
    """Shares of the training objects that are changed."""

    recolor: float = 0.3
    """Recoloured, with a caption that says so."""
    mirror: float = 0.5
    """Reflected left to right."""
    reword: bool = True
    """30 % of the captions in other words."""
    reframe: float = 0.0
    """Standard deviation of a picture's scale (log) and, halved, of its place (in halves of the picture)."""
    ragged: float = 0.0
    """Share of the pictures that were cut out a pixel too wide or too narrow."""


@dataclass(frozen=True)
class Arguments:
    """Train the embedded prior on the low-poly pack, from scratch, from a checkpoint in `out`, or from exported
    weights."""

    data: Path = Path("../shared/data")
    out: Path = Path(".cache/train")
    init: Path | None = None
    """What to start from: a folder of exported weights, or a checkpoint.safetensors (weights, EMA and optimiser)."""
    device: str = "cpu"
    augment: Augment = field(default_factory=Augment)
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


class PackSource:
    """`Source` over the training pack: objects, mirrored ones, recoloured ones; captions, in other words too.
    Rendering costs about a twentieth of a step."""

    def __init__(self, pack: Pack, encoder: TextEncoder, cache: Path, augment: Augment | None = None):
        self.pack, self.encoder, self.augment = pack, encoder, augment or Augment()
        self.training, self.held_out = split_families(pack.rows)
        self.cumulative = np.cumsum(family_weights(pack.rows, self.training))
        self.embeddings = self._embed(cache)

    def _embed(self, cache: Path) -> dict[str, Tensor]:
        """Caption -> (L, 384) bf16, for every caption of the pack; half a minute, so it is kept in a cache file."""
        from safetensors.torch import load_file, save_file

        captions = list(dict.fromkeys([c for r in self.pack.rows for c in r["captions"]] + [""]))
        digest = hashlib.sha256("\n".join(captions).encode()).hexdigest()
        if cache.is_file():
            packed = load_file(cache)
            with safe_open(cache, "pt") as file:
                metadata = file.metadata() or {}
            if metadata.get("captions") == digest:
                return dict(zip(captions, packed["tokens"].split(packed["lengths"].tolist()), strict=True))
        rows: dict[str, Tensor] = {}
        order = sorted(captions, key=len)
        for k in range(0, len(order), 64):
            rows |= self._encode(order[k : k + 64])
        ordered = [rows[c] for c in captions]
        lengths = torch.tensor([len(r) for r in ordered])
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({"tokens": torch.cat(ordered), "lengths": lengths}, cache, metadata={"captions": digest})
        return rows

    def _encode(self, captions: list[str]) -> dict[str, Tensor]:
        e = self.encoder(captions)
        return {c: e.tokens[j][e.mask[j]].cpu().bfloat16() for j, c in enumerate(captions)}

    def _render(self, meshes: list[Mesh], azimuth: Tensor, elevation: Tensor, size: int) -> Tensor:
        each = [m for m in meshes for _ in range(azimuth.shape[1])]
        return torch.from_numpy(snapshots(each, make_cameras(azimuth.flatten(), elevation.flatten()), size))

    def draw(
        self, objects: int, azimuth: Tensor, elevation: Tensor, size: int, generator: torch.Generator
    ) -> tuple[Tensor, list[str]]:
        u = torch.rand(objects, 8, generator=generator, dtype=torch.float64).numpy()
        picked = np.searchsorted(self.cumulative, u[:, 0]).clip(max=len(self.training) - 1)
        meshes, captions = [], []
        for i, r in zip(picked, u, strict=True):
            mesh, caption = self._object(self.training[i], r[1:].tolist())
            meshes.append(mesh)
            captions.append(caption)
        return self._render(meshes, azimuth, elevation, size), captions

    def _object(self, index: int, u: list[float]) -> tuple[Mesh, str]:
        """One object, as it is or changed, and a caption that is true of it. `u`: seven uniform numbers."""
        row, mesh = self.pack.rows[index], self.pack.mesh(index)
        caption = row["captions"][int(u[0] * len(row["captions"]))]
        if u[1] < self.augment.recolor and can_recolor(row):
            color = list(PALETTE)[int(u[2] * len(PALETTE))]
            changed = recolored(mesh, color)
            if changed is not None:
                mesh, caption = changed, article(f"{color} {row['name']}")
        if u[3] < self.augment.mirror:
            mesh = mirrored(mesh)
        if self.augment.reword:
            caption = reworded(caption, u[4], u[5])
        return mesh, caption

    def validation(
        self, count: int, azimuth: Tensor, elevation: Tensor, size: int, seen: bool = False
    ) -> tuple[Tensor, list[str]]:
        pool = self.training if seen else self.held_out
        indices = [pool[int(i * len(pool) / count)] for i in range(count)]
        frames = self._render([self.pack.mesh(i) for i in indices], azimuth, elevation, size)
        return frames, [self.pack.rows[i]["captions"][0] for i in indices]

    def picture(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        taken = photograph(frames, generator)
        if self.augment.ragged:
            taken = ragged(taken, self.augment.ragged, generator)
        return misframed(taken, self.augment.reframe, generator) if self.augment.reframe else taken

    def text(self, captions: list[str]) -> TextEmbedding:
        missing = [c for c in dict.fromkeys(captions) if c not in self.embeddings]
        if missing:
            self.embeddings |= self._encode(missing)
        rows = [self.embeddings[c] for c in captions]
        length = max(len(r) for r in rows)
        tokens = torch.zeros(len(rows), length, rows[0].shape[1])
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for k, r in enumerate(rows):
            tokens[k, : len(r)] = r.float()
            mask[k, : len(r)] = True
        return TextEmbedding(tokens, mask)


def main() -> None:
    import sys

    a = tyro.cli(Arguments)

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    compile_kernels()
    source = PackSource(load_pack(a.data), TextEncoder(), Path(".cache") / "captions.safetensors", a.augment)
    weights = a.init if a.init is not None and a.init.is_dir() else None
    state: TrainState = new_state(a.train, a.device, weights)
    if (a.out / "checkpoint.safetensors").is_file():
        state = load_checkpoint(state, a.out / "checkpoint.safetensors")
        say(f"resumed at step {state.step}")
    elif a.init is not None and weights is None:
        state = load_checkpoint(state, a.init)
        state.step = 0
    train(state, source, a.train, a.out, a.device, say=say)


if __name__ == "__main__":
    main()
