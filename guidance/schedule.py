"""Which time steps a distillation visits, and how much each weighs.

A policy's ends are noise levels sigma = s/a, mapped through each prior's own schedule to t_min = t(sigma_min) and
t_max = t(sigma_max). With i the step and I the number of steps:

    uniform       t ~ U{t_min .. t_max}                                    DreamFusion (2209.14988)
    linear        t = t_min + (t_max - t_min) (1 - i/I)
    square root   t = t_min + (t_max - t_min) (1 - sqrt(i/I))               HiFA (2305.18766), DSD (2412.06780)

    DreamTime     t_i = argmin_t' | sum_{t >= t'} W(t) / sum W - i/I |         DreamTime (2306.12422)

    weights       w(t) = s_t^2 (DreamFusion),  w(t) = 1

Under uniform t large noise always has its say and pulls towards the average of the modes; annealed t ends inside one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guidance.prior import NoiseSchedule, scaled_linear_schedule

# The default ends are Stable Diffusion's t = 300 and 980. A small network's noise prediction, its x0 error / s_t, is
# wrong at small t: for the embedded prior keep s_t >= 0.3, that is sigma_min >= 0.315. The default has s_t = 0.64.
SIGMA_MIN = 0.833
SIGMA_MAX = 13.04


class TimePolicy(Protocol):
    """What the three policies below share."""

    def draw(self, step: int, steps: int, batch: int, schedule: NoiseSchedule, generator: torch.Generator) -> Tensor:
        """Time steps (batch,) int64 on the generator's device, for step 0 <= step <= steps.

        Frames that are denoised jointly share a time step: draw for the objects, then `repeat_interleave`.
        ValueError where sigma_min is above sigma_max, or for a step outside the range.
        """
        ...


@dataclass(frozen=True)
class Uniform:
    """t ~ U{t_min .. t_max}, both ends included, independent for each member of the batch, whatever the step."""

    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX

    def draw(self, step: int, steps: int, batch: int, schedule: NoiseSchedule, generator: torch.Generator) -> Tensor:
        _progress(step, steps)
        low, high = _ends(self.sigma_min, self.sigma_max, schedule)
        return torch.randint(low, high + 1, (batch,), generator=generator, device=generator.device)


@dataclass(frozen=True)
class LinearAnneal:
    """t = t_min + (t_max - t_min) (1 - i/I), one t for the whole batch.

    `jitter`: each member adds its own U{-jitter .. jitter} time steps, kept between the ends.
    Without jitter nothing is drawn from the generator.
    """

    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    jitter: int = 0

    def draw(self, step: int, steps: int, batch: int, schedule: NoiseSchedule, generator: torch.Generator) -> Tensor:
        low, high = _ends(self.sigma_min, self.sigma_max, schedule)
        t = low + (high - low) * (1 - _progress(step, steps))
        return _jittered(round(t), self.jitter, low, high, batch, generator)


@dataclass(frozen=True)
class SqrtAnneal:
    """t = t_min + (t_max - t_min) (1 - sqrt(i/I)), one t for the whole batch; `jitter` as in LinearAnneal.

    Quick away from the noise, long near t_min.
    """

    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    jitter: int = 0

    def draw(self, step: int, steps: int, batch: int, schedule: NoiseSchedule, generator: torch.Generator) -> Tensor:
        low, high = _ends(self.sigma_min, self.sigma_max, schedule)
        t = low + (high - low) * (1 - math.sqrt(_progress(step, steps)))
        return _jittered(round(t), self.jitter, low, high, batch, generator)


@dataclass(frozen=True)
class DreamTime:
    """Time spent at a noise level is proportional to W: flat between Stable Diffusion's t 500 and 800, a Gaussian of
    deviation 300 above and one of 100 below. One t for the whole batch, never rising; nothing is drawn.

    W belongs to Stable Diffusion's time steps; another prior gets the t of the same sigma.
    """

    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX

    def draw(self, step: int, steps: int, batch: int, schedule: NoiseSchedule, generator: torch.Generator) -> Tensor:
        done = _progress(step, steps)
        sd = scaled_linear_schedule()
        low, high = _ends(self.sigma_min, self.sigma_max, sd)
        t = torch.arange(low, high + 1, dtype=torch.float64)
        weight = torch.exp(-((t - t.clamp(500, 800)) ** 2) / (2 * torch.where(t > 650, 300.0, 100.0) ** 2))
        tail = weight.flip(0).cumsum(0).flip(0) / weight.sum()  # the share of W at t' and above
        chosen = low + int((tail - done).abs().argmin())
        sigma = float(sd.sigma(torch.tensor([chosen])))
        return torch.full((batch,), schedule.t_at(sigma), device=generator.device)


def _ends(sigma_min: float, sigma_max: float, schedule: NoiseSchedule) -> tuple[int, int]:
    if sigma_min > sigma_max:
        raise ValueError(f"sigma_min {sigma_min} is above sigma_max {sigma_max}")
    return schedule.t_at(sigma_min), schedule.t_at(sigma_max)


def _progress(step: int, steps: int) -> float:
    if not 0 <= step <= steps or steps == 0:
        raise ValueError(f"step {step} is outside a run of {steps} steps")
    return step / steps


def _jittered(t: int, jitter: int, low: int, high: int, batch: int, generator: torch.Generator) -> Tensor:
    shared = torch.full((batch,), t, device=generator.device)
    if jitter == 0:
        return shared
    own = torch.randint(-jitter, jitter + 1, (batch,), generator=generator, device=generator.device)
    return (shared + own).clamp(low, high)


Weight = Callable[[Tensor, NoiseSchedule], Tensor]
"""w(t): time steps (B,) and a schedule to (B, 1, 1, 1), ready to multiply a gradient."""


def s2_weight(t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """w(t) = s_t^2, DreamFusion's: together with SDS' 1/s_t it leaves a s_t (x - x0), gentle at both ends."""
    return schedule.s(t) ** 2


def uniform_weight(t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """w(t) = 1."""
    return torch.ones_like(schedule.s(t))


WEIGHTS: dict[str, Weight] = {"s2": s2_weight, "uniform": uniform_weight}
