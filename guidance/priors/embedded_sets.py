"""What the embedded prior is trained on: batches of frames with their conditions and noise levels.

A batch is dense: of one kind of set (which ones, app/training/options.py says). Frames of an object are neighbours.
Where pictures join an object they are its first frames, with t = 0. Where alpha and normals carry a time step of their
own it is `geometry`: 0 there means colours for a given shape (the second stage of Direct2.5, 2311.15980).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guidance.priors.text import TextEmbedding
from guidance.settings import ELEVATIONS, PICTURE_ELEVATIONS


class Source(Protocol):
    """Where the objects come from that errors are measured on. The application wires a renderer to them; this module
    never sees a mesh."""

    def validation(
        self, count: int, azimuth: Tensor, elevation: Tensor, size: int, seen: bool = False
    ) -> tuple[Tensor, list[str]]:
        """A fixed set of `count` objects, of held-out families or (`seen`) of training families, from views
        (count, V): frames (count * V, 7, size, size) in [0, 1], and a caption each."""
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
    """The network, its optimiser and its loss."""

    channels: tuple[int, ...] = (64, 128, 192)
    learning_rate: float = 1e-3
    weight_decay: float = 0.01  # of matrices
    seed: int = 0
    bf16: bool = True
    max_weight: float = 5.0


@dataclass(frozen=True)
class Batch:
    x: Tensor  # (B, 7, S, S) in [-1, 1]
    t: Tensor  # (B,), 0 on picture frames
    text: TextEmbedding
    camera: Tensor  # (B, 16)
    frames: int  # per object, the picture included
    target: Tensor  # (B,) bool: false on picture frames
    geometry: Tensor | None = None  # (B,) the time step of alpha and normals, where it is not t
