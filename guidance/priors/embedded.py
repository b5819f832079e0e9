"""The embedded prior: a small multi-view diffusion model of game assets that ships with Polymode and runs on a CPU.

It denoises frames of base colour, alpha and camera-space normals (docs/conventions.md), jointly for the views of one
object. See docs/prior.md and assets/prior/README.md for what it knows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from guidance.prior import NoiseSchedule, Prediction, Views, squared_cosine_schedule
from guidance.priors.embedded_network import CHANNELS, camera_vector, predict_x0
from guidance.priors.embedded_weights import load_network
from guidance.priors.text import TextEmbedding, TextEncoder


@dataclass(frozen=True)
class EmbeddedCondition:
    """`text`: (1, L, 384) for all frames; `camera`: (B, 16), or None for a view-blind condition; V frames an
    object."""

    text: TextEmbedding
    camera: Tensor | None
    frames_per_object: int


@dataclass
class Usage:
    """What a prior was asked for: forwards counted in frames, and the seconds they took."""

    frame_forwards: int = 0
    seconds: float = 0.0

    def ms_per_frame_forward(self) -> float:
        return 1e3 * self.seconds / max(1, self.frame_forwards)


class EmbeddedPrior:
    """A `Prior` (guidance/prior.py) over 7 x 64 x 64 frames."""

    def __init__(
        self,
        net: UNet2DConditionModel,
        encoder: TextEncoder,
        device: torch.device | str = "cpu",
        name: str = "embedded",
        config: dict[str, Any] | None = None,
    ):
        self.net, self.encoder, self.device, self._name = net, encoder, torch.device(device), name
        self.config = config or {"size": 64}
        self._schedule = squared_cosine_schedule()
        self.usage = Usage()
        self._texts: dict[str, TextEmbedding] = {}

    @staticmethod
    def load(folder: Path, device: torch.device | str = "cpu", name: str = "embedded") -> EmbeddedPrior:
        """From a folder of exported weights. MissingWeights (one sentence) if anything is absent or damaged."""
        net, config = load_network(folder, device)
        return EmbeddedPrior(net, TextEncoder(device), device, name, config)

    @property
    def name(self) -> str:
        return self._name

    @property
    def schedule(self) -> NoiseSchedule:
        return self._schedule

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return (CHANNELS, self.config["size"], self.config["size"])

    def encode(self, frames: Tensor) -> Tensor:
        """[0, 1] -> [-1, 1]. ValueError for frames of another shape."""
        if tuple(frames.shape[1:]) != self.frame_shape:
            raise ValueError(f"This prior takes frames of shape {self.frame_shape}, got {tuple(frames.shape[1:])}.")
        return frames * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        """[-1, 1] -> [0, 1], clipped."""
        return (x * 0.5 + 0.5).clamp(0, 1)

    def condition(self, prompt: str, views: Views | None) -> EmbeddedCondition:
        """`views` None is the view-blind 2D prior. The empty prompt is the unconditional text."""
        if prompt not in self._texts:
            self._texts[prompt] = self.encoder([prompt])
        text = self._texts[prompt]
        if views is None:
            return EmbeddedCondition(text, None, 1)
        camera = camera_vector(views.azimuth, views.elevation, len(views.azimuth), self.device)
        return EmbeddedCondition(text, camera, views.frames_per_object)

    @torch.no_grad()
    def predict(self, z: Tensor, t: Tensor, conditions: Sequence[EmbeddedCondition]) -> list[Prediction]:
        """One prediction a condition from one network call over len(conditions) * B frames."""
        start = time.perf_counter()
        b, k = z.shape[0], len(conditions)
        frames = conditions[0].frames_per_object
        if any(c.frames_per_object != frames for c in conditions) or b % frames:
            raise ValueError(f"Conditions of one call must share frames_per_object, and it must divide {b}.")
        length = max(c.text.mask.shape[1] for c in conditions)

        def pad(x: Tensor) -> Tensor:
            extra = [0, 0] * (x.ndim - 2) + [0, length - x.shape[1]]
            return F.pad(x, extra).expand(b, *[-1] * (x.ndim - 1))

        text = TextEmbedding(
            torch.cat([pad(c.text.tokens) for c in conditions]), torch.cat([pad(c.text.mask) for c in conditions])
        )
        blind = camera_vector(None, None, b, self.device)
        camera = torch.cat([blind if c.camera is None else c.camera for c in conditions])
        x0 = predict_x0(self.net, z.repeat(k, 1, 1, 1), t.repeat(k), text, camera, frames)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.usage.frame_forwards += k * b
        self.usage.seconds += time.perf_counter() - start
        return [Prediction.from_x0(x, z, t, self.schedule) for x in x0.chunk(k)]
