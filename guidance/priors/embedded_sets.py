"""The training sets of the embedded prior: which frames, which conditions, which noise levels.

Every step draws one kind of set (so that a batch is dense): `joint` (4 frames of an object 90 degrees apart, with
cameras), `single` (one frame with its camera), or one without. The text is dropped in `no_text`. In `picture` of the
first two kinds pictures join every object as more frames with t = 0; then in `relative` the azimuths are given
relative to the first. Elevation is dropped in 30 % of those. In `separate_times` of the sets alpha and normals carry a
time step of their own, half of those 0: colours for a given shape (the second stage of Direct2.5, 2311.15980).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guidance.prior import to_signed
from guidance.priors.embedded_network import camera_vector
from guidance.priors.text import TextEmbedding
from guidance.settings import ELEVATIONS, PICTURE_ELEVATIONS


class Source(Protocol):
    """Where training sets come from. The application wires a renderer to the objects; this module never sees a
    mesh."""

    def draw(
        self, objects: int, azimuth: Tensor, elevation: Tensor, size: int, generator: torch.Generator
    ) -> tuple[Tensor, list[str]]:
        """`objects` random objects from views (objects, V): frames (objects * V, 7, size, size) in [0, 1], and a
        caption each."""
        ...

    def validation(
        self, count: int, azimuth: Tensor, elevation: Tensor, size: int, seen: bool = False
    ) -> tuple[Tensor, list[str]]:
        """The same for a fixed set of `count` objects of held-out families, or (`seen`) of training families."""
        ...

    def picture(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Photograph-like versions (RGB lit, alpha kept, normals mid-grey) of frames (B, 7, S, S)."""
        ...

    def text(self, captions: list[str]) -> TextEmbedding:
        """The captions' embeddings; the empty string is the dropped text."""
        ...


LOW, HIGH = (math.radians(e) for e in ELEVATIONS)
PICTURE_LOW, PICTURE_HIGH = (math.radians(e) for e in PICTURE_ELEVATIONS)


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast, in what precision. Sizes are per step at `size` 64; at 32 twice the objects are drawn."""

    steps: int = 20000
    size: int = 64
    objects: int = 4
    learning_rate: float = 8e-4
    final_learning_rate: float = 8e-4  # reached linearly from `decay_from` (a share of the steps)
    decay_from: float = 1.0
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.9995
    seed: int = 0
    bf16: bool = True
    joint: float = 0.75
    """Share of the sets that are four views of an object with cameras."""
    single: float = 0.15
    """Share of single views with a camera; the rest is view-blind."""
    no_text: float = 0.1
    """Share of the objects whose text is dropped."""
    picture: float = 0.2
    """Share of the sets with cameras that have a picture."""
    relative: float = 0.5
    """Share of those whose azimuths are relative to the picture."""
    facing: float = 0.0
    """Share of those whose first view has the picture's azimuth."""
    several: float = 0.0
    """Share of those with two or three pictures."""
    separate_times: float = 0.05
    skew: float = 0.7
    max_weight: float = 5.0
    optimizer: str = "adamw"
    """adamw, or muon for the matrices (guidance/priors/muon.py)."""
    validate_every: int = 500
    sample_every: int = 3000
    save_every: int = 500
    channels: tuple[int, ...] = (64, 128, 192)


@dataclass(frozen=True)
class Batch:
    x: Tensor  # (B, 7, S, S) in [-1, 1]
    t: Tensor  # (B,), 0 on picture frames
    text: TextEmbedding
    camera: Tensor  # (B, 16)
    frames: int  # per object, the picture included
    target: Tensor  # (B,) bool: false on picture frames
    geometry: Tensor | None = None  # (B,) the time step of alpha and normals, where it is not t


def draw_batch(source: Source, config: TrainConfig, generator: torch.Generator) -> Batch:
    """One dense batch of one kind of set."""
    u = torch.rand(8, generator=generator).tolist()
    joint, with_camera = u[0] < config.joint, u[0] < config.joint + config.single
    views = 4 if joint else 1
    objects = config.objects * (1 if config.size >= 64 else 2) * (1 if joint else 3)
    with_picture = with_camera and u[1] < config.picture
    azimuth = torch.rand(objects, 1, generator=generator) * 2 * math.pi + torch.arange(views) * (2 * math.pi / views)
    elevation = LOW + torch.rand(objects, 1, generator=generator) * (HIGH - LOW)
    elevation = elevation.expand(objects, views)
    pictures = 0
    if with_picture:  # seen from anywhere near the horizon
        pictures = 1 if u[6] >= config.several else 2 + (u[6] < config.several / 2)
        around = torch.rand(objects, pictures, generator=generator) * 2 * math.pi
        if u[7] < config.facing:
            azimuth = azimuth - azimuth[:, :1] + around[:, :1]
        azimuth = torch.cat([around, azimuth], 1)
        own = PICTURE_LOW + torch.rand(objects, pictures, generator=generator) * (PICTURE_HIGH - PICTURE_LOW)
        elevation = torch.cat([own, elevation], 1)
    frames, captions = source.draw(objects, azimuth, elevation, config.size, generator)
    v = views + pictures
    is_picture = torch.zeros(objects, v, dtype=torch.bool)
    if with_picture:
        is_picture[:, :pictures] = True
        frames = frames.clone()
        flat = is_picture.flatten()
        frames[flat] = source.picture(frames[flat], generator)
        if relative := u[2] < config.relative:
            azimuth = azimuth - azimuth[:, :1]
    else:
        relative = False
    is_picture = is_picture.flatten()
    keep_elevation = u[3] >= 0.3 or not with_picture
    camera = camera_vector(
        azimuth.flatten() if with_camera else None,
        elevation.flatten() if with_camera and keep_elevation else None,
        objects * v,
        picture=is_picture,
        relative=relative,
    )
    drop = (torch.rand(objects, generator=generator) < config.no_text).tolist()
    captions = ["" if dropped else c for c, dropped in zip(captions, drop, strict=True)]
    text = source.text([c for c in captions for _ in range(v)])

    def times(*shape: int) -> Tensor:
        return (1000 * torch.rand(shape, generator=generator) ** config.skew).long().clamp(max=999)

    t = times(objects, 1).expand(objects, v)
    # most joint sets share one t (what sampling sees), a fifth draws one a frame (what distillation may need)
    if u[4] < 0.2:
        t = times(objects, v)
    geometry = None
    if u[5] < config.separate_times:
        geometry = times(objects, 1)
        geometry *= torch.rand(objects, 1, generator=generator) < 0.5
        geometry = geometry.expand(objects, v).flatten().masked_fill(is_picture, 0)
    t = t.flatten().masked_fill(is_picture, 0)
    return Batch(to_signed(frames), t, text, camera, v, ~is_picture, geometry)
