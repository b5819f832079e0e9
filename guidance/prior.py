"""The Prior protocol, what a prior is told (views, text), and the noise schedule.

z_t = a_t x + s_t eps, a_t = sqrt(abar_t), s_t = sqrt(1 - abar_t), sigma_t = s_t / a_t, t integer in 0..T-1, shape
(B,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """`abar`: float64 (T,), decreasing. Look-ups return float32 with shape (B, 1, 1, 1), ready to broadcast over
    frames."""

    abar: Tensor

    def __len__(self) -> int:
        return self.abar.shape[0]

    def a(self, t: Tensor) -> Tensor:
        return self.abar.to(t.device)[t].sqrt().float()[:, None, None, None]

    def s(self, t: Tensor) -> Tensor:
        return (1 - self.abar.to(t.device)[t]).sqrt().float()[:, None, None, None]

    def sigma(self, t: Tensor) -> Tensor:
        """(B, 1, 1, 1) s_t / a_t."""
        abar = self.abar.to(t.device)[t]
        return ((1 - abar) / abar).sqrt().float()[:, None, None, None]

    def t_at(self, sigma: float) -> int:
        """The integer time step whose sigma is nearest (in log sigma) to `sigma`."""
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        log_sigma = 0.5 * (torch.log1p(-self.abar) - self.abar.log())
        return int((log_sigma - math.log(sigma)).abs().argmin())

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t (B, C, H, W) from x, noise of that shape and t (B,)."""
        return self.a(t) * x + self.s(t) * noise


def squared_cosine_schedule(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """Nichol and Dhariwal's squared cosine (2102.09672), with diffusers' clipping of beta."""

    def bar(u: float) -> float:
        return math.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2

    betas = [min(1 - bar((i + 1) / steps) / bar(i / steps), max_beta) for i in range(steps)]
    return NoiseSchedule(torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0))


def scaled_linear_schedule(steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> NoiseSchedule:
    """Stable Diffusion's: beta linear in its square root."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    return NoiseSchedule(torch.cumprod(1 - betas, 0))


@dataclass(frozen=True)
class Prediction:
    """One denoiser output in both forms, each (B, C, H, W). Both are linear in each other at fixed z, so CFG acts on
    both alike."""

    x0: Tensor
    eps: Tensor

    @staticmethod
    def from_x0(x0: Tensor, z: Tensor, t: Tensor, schedule: NoiseSchedule) -> Prediction:
        """For x0-predicting priors: x0 is returned as it is (never divided by a_t, which vanishes near t = T)."""
        return Prediction(x0, (z - schedule.a(t) * x0) / schedule.s(t))

    @staticmethod
    def from_eps(eps: Tensor, z: Tensor, t: Tensor, schedule: NoiseSchedule) -> Prediction:
        return Prediction((z - schedule.s(t) * eps) / schedule.a(t), eps)


def bounded(p: Prediction, z: Tensor, t: Tensor, prior: Prior) -> Prediction:
    """`p` with x0 clipped to what the prior's samples can be, as samplers do; as it is where there is no bound."""
    if prior.bound == float("inf"):
        return p
    return Prediction.from_x0(p.x0.clamp(-prior.bound, prior.bound), z, t, prior.schedule)


def to_signed(frames: Tensor) -> Tensor:
    """Frames in [0, 1] to x in [-1, 1]."""
    return 2 * frames - 1


def to_frames(x: Tensor) -> Tensor:
    """x in [-1, 1] to frames in [0, 1], clipped."""
    return (x * 0.5 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class Views:
    """Where B frames are seen from. `azimuth`, `elevation`: (B,) radians. Frames come object by object:
    `frames_per_object` neighbours belong to one object and may be denoised jointly."""

    azimuth: Tensor
    elevation: Tensor
    frames_per_object: int = 1


@dataclass(frozen=True)
class Picture:
    """K pictures of one object, what a user has. `frames`: (K, C, H, W) in [0, 1], the prior's own frame shape: lit
    RGB on mid-grey, alpha, and mid-grey where the prior wants what nobody photographs. `azimuth`: (K,) radians, the
    world's, as of the views beside them: a prior that thinks relative to the first picture subtracts its azimuth
    itself. `elevation`: (K,) radians, or None for unknown."""

    frames: Tensor
    azimuth: Tensor
    elevation: Tensor | None = None


class UnfitPicture(ValueError):
    """A prior cannot be told of a picture; one sentence what, one what to do."""


class Prior(Protocol):
    """A frozen diffusion model of frames. Conditions are opaque: made by `condition`, handed back to `predict`."""

    @property
    def name(self) -> str: ...

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the frames that `encode` takes."""
        ...

    @property
    def bound(self) -> float:
        """Largest |x0| of a sample in the space that is noised; infinity where there is none."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Differentiable map from frames (B, C, H, W) in [0, 1] to the space that is noised."""
        ...

    def condition(self, prompt: str | Sequence[str], views: Views | None, picture: Picture | None = None) -> Any:
        """The condition for frames seen from `views`; an empty prompt is the unconditional one. A sequence is a prompt
        a frame. With a `picture`, of every object alike, the views' azimuths are relative to its first; UnfitPicture
        where the prior takes none."""
        ...

    def predict(self, z: Tensor, t: Tensor, conditions: Sequence[Any]) -> list[Prediction]:
        """One prediction a condition, all at the same z (B, ...) and t (B,), in one network call. No gradient."""
        ...
