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
from torch import Tensor

from guidance.prior import (
    NoiseSchedule,
    Picture,
    Prediction,
    UnfitPicture,
    Views,
    squared_cosine_schedule,
    to_frames,
    to_signed,
)
from guidance.priors.embedded_network import CHANNELS, camera_vector, geometry_time, predict_x0
from guidance.priors.embedded_weights import load_network
from guidance.priors.text import TextEmbedding, TextEncoder
from guidance.priors.unet import UNet2DConditionModel


@dataclass(frozen=True)
class EmbeddedCondition:
    """`text`: (1, L, 384) for all frames, or (B, L, 384); `camera`: (B, 16), or None for a view-blind condition; V
    frames an object.
    `picture`: (K, 7, S, S) in [-1, 1], the same for every object, and their camera vectors (K, 16), or None."""

    text: TextEmbedding
    camera: Tensor | None
    frames_per_object: int
    picture: tuple[Tensor, Tensor] | None = None


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
        precision: str = "float32",
    ):
        self.net, self.encoder, self.device, self._name = net, encoder, torch.device(device), name
        self.precision = precision
        self.config = config or {"size": 64}
        self._schedule = squared_cosine_schedule()
        self.usage = Usage()
        self._texts: dict[str, TextEmbedding] = {}

    @staticmethod
    def load(
        folder: Path, device: torch.device | str = "cpu", name: str = "embedded", precision: str = "float32"
    ) -> EmbeddedPrior:
        """From a folder of exported weights. `precision` "bfloat16" runs the network's products in it. MissingWeights
        (one sentence) if anything is absent or damaged."""
        net, config = load_network(folder, device)
        return EmbeddedPrior(net, TextEncoder(device), device, name, config, precision)

    def forget(self) -> None:
        """Count usage anew, and keep no prompt's text."""
        self.usage = Usage()
        self._texts.clear()

    @property
    def name(self) -> str:
        return self._name

    @property
    def schedule(self) -> NoiseSchedule:
        return self._schedule

    @property
    def bound(self) -> float:
        return 1.0

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return (CHANNELS, self.config["size"], self.config["size"])

    def encode(self, frames: Tensor) -> Tensor:
        """[0, 1] -> [-1, 1]. ValueError for frames of another shape."""
        if tuple(frames.shape[1:]) != self.frame_shape:
            raise ValueError(f"This prior takes frames of shape {self.frame_shape}, got {tuple(frames.shape[1:])}.")
        return to_signed(frames)

    def decode(self, x: Tensor) -> Tensor:
        """[-1, 1] -> [0, 1], clipped."""
        return to_frames(x)

    def text(self, prompt: str | Sequence[str]) -> TextEmbedding:
        """(1, L, 384) of a prompt, (B, L, 384) of a prompt a frame; each prompt is encoded once."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        for p in prompts:
            if p not in self._texts:
                self._texts[p] = self.encoder([p])
        texts = [self._texts[p] for p in prompts]
        length = max(x.mask.shape[1] for x in texts)
        pads = [length - x.mask.shape[1] for x in texts]
        return TextEmbedding(
            torch.cat([F.pad(x.tokens, (0, 0, 0, n)) for x, n in zip(texts, pads, strict=True)]),
            torch.cat([F.pad(x.mask, (0, n)) for x, n in zip(texts, pads, strict=True)]),
        )

    def condition(
        self, prompt: str | Sequence[str], views: Views | None, picture: Picture | None = None
    ) -> EmbeddedCondition:
        """`views` None is the view-blind 2D prior. The empty prompt is the unconditional text; a sequence is a prompt
        a frame. With a `picture`, the network is told azimuths relative to the first of them; UnfitPicture without
        views, or with several prompts."""
        text = self.text(prompt)
        if picture is not None and len(text.mask) > 1:
            raise UnfitPicture(
                "A picture goes with one prompt, not with a prompt a frame; leave --guide.view-words out."
            )
        if views is None:
            if picture is not None:
                raise UnfitPicture("A picture needs views: azimuths relative to it; leave --guide.blind-camera out.")
            return EmbeddedCondition(text, None, 1)
        count = len(views.azimuth)
        if picture is None:
            camera = camera_vector(views.azimuth, views.elevation, count, self.device)
            return EmbeddedCondition(text, camera, views.frames_per_object)
        n = len(picture.frames)
        ones = torch.ones(n, device=self.device)
        turned = picture.azimuth - picture.azimuth[0]
        own = camera_vector(turned, picture.elevation, n, self.device, picture=ones, relative=True)
        # in training both kinds of frame lose their elevation together
        elevation = None if picture.elevation is None else views.elevation
        azimuth = views.azimuth - picture.azimuth[0].to(views.azimuth)
        camera = camera_vector(azimuth, elevation, count, self.device, relative=True)
        return EmbeddedCondition(text, camera, views.frames_per_object, (self.encode(picture.frames), own))

    def with_network(self, net: UNet2DConditionModel) -> EmbeddedPrior:
        """This prior around another network of the same shape (a copy with a LoRA); usage is counted together."""
        other = EmbeddedPrior(net, self.encoder, self.device, self.name, self.config, self.precision)
        other.usage, other._texts = self.usage, self._texts
        return other

    def denoise(self, z: Tensor, t: Tensor, condition: EmbeddedCondition) -> Tensor:
        """x0 (B, 7, S, S) with a graph to the network's weights; z (B, 7, S, S), t (B,)."""
        return self._network([condition], z, t, condition.frames_per_object)[0]

    @torch.no_grad()
    def predict(self, z: Tensor, t: Tensor, conditions: Sequence[EmbeddedCondition]) -> list[Prediction]:
        """One prediction a condition, from one network call over len(conditions) * B frames (two, where only some have
        a picture)."""
        return self._predict(z, t, conditions, None)

    @torch.no_grad()
    def predict_color(self, z: Tensor, t: Tensor, conditions: Sequence[EmbeddedCondition]) -> list[Prediction]:
        """The same where alpha and normals of z are clean: they are told to carry the time step 0. In 5 % of the sets
        that the network was trained on, geometry had a time step of its own, in half of those 0."""
        return self._predict(z, t, conditions, torch.zeros_like(t))

    def _predict(
        self, z: Tensor, t: Tensor, conditions: Sequence[EmbeddedCondition], geometry: Tensor | None
    ) -> list[Prediction]:
        start = time.perf_counter()
        b = z.shape[0]
        frames = conditions[0].frames_per_object
        if any(c.frames_per_object != frames for c in conditions) or b % frames:
            raise ValueError(f"Conditions of one call must share frames_per_object, and it must divide {b}.")
        out: list[Tensor | None] = [None] * len(conditions)
        for with_picture in (False, True):
            chosen = [i for i, c in enumerate(conditions) if (c.picture is not None) == with_picture]
            if chosen:
                x0 = self._network([conditions[i] for i in chosen], z, t, frames, geometry)
                for i, x in zip(chosen, x0, strict=True):
                    out[i] = x
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.usage.seconds += time.perf_counter() - start
        return [Prediction.from_x0(x, z, t, self.schedule) for x in out if x is not None]

    def _network(
        self,
        conditions: list[EmbeddedCondition],
        z: Tensor,
        t: Tensor,
        frames: int,
        geometry: Tensor | None = None,
    ) -> list[Tensor]:
        """x0 (B, 7, S, S) a condition. All have K pictures, or none has any: they join each object as its first
        frames. `geometry` (B,): the time step of alpha and normals, where it is not t; without pictures only."""
        b = z.shape[0]
        length = max(c.text.mask.shape[1] for c in conditions)
        inputs = []
        for c in conditions:
            blind = camera_vector(None, None, b, self.device)
            one = (z, t, blind if c.camera is None else c.camera)
            if c.picture is not None:
                n, k = b // frames, len(c.picture[0])
                heads = (c.picture[0], torch.zeros(k, dtype=t.dtype, device=t.device), c.picture[1])
                one = tuple(
                    torch.cat([h.expand(n, *h.shape), x.unflatten(0, (n, frames))], 1).flatten(0, 1)
                    for h, x in zip(heads, one, strict=True)
                )
            extra = (0, 0, 0, length - c.text.mask.shape[1])
            tokens = F.pad(c.text.tokens, extra).expand(len(one[0]), -1, -1)
            mask = F.pad(c.text.mask, extra[2:]).expand(len(one[0]), -1)
            inputs.append((*one, tokens, mask))
        zs, ts, cameras, tokens, masks = (torch.cat(x) for x in zip(*inputs, strict=True))
        joined = frames + (0 if conditions[0].picture is None else len(conditions[0].picture[0]))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            own = None if geometry is None else geometry_time(geometry).repeat(len(conditions), 1)
            x0 = predict_x0(self.net, zs, ts, TextEmbedding(tokens, masks), cameras, joined, own)
        self.usage.frame_forwards += len(zs)
        if joined > frames:
            x0 = x0.unflatten(0, (-1, joined))[:, joined - frames :].flatten(0, 1)
        return list(x0.chunk(len(conditions)))
