"""Colour for a given geometry: joint DDIM sampling of the colour channels alone.

A frame is x = (c, g): base colour c, and alpha and normals g. With g known from renders of a mesh, colour is drawn
from p(c | g, y) by the deterministic sampler of guidance/sample.py,

    c_{t'} = a_{t'} c0 + s_{t'} eps,      (c0, eps) the guided prediction at ((c_t, g_t), t),

in one of two ways. By replacement (2011.13456), g_t = a_t g + s_t eps_g with one noise eps_g: what is known takes the
place of what was predicted, at colour's own noise level. Clean, g_t = g, and the network is told that geometry's time
step is 0: E[c | c_t, g], exact where the denoiser is that of frames whose channels carry separate noise levels
(UniDiffuser, 2303.06555), while replacement is not: far up, g_t says little about g. Where nothing is (alpha 0), c0 is
the frames' grey.

The embedded prior saw separate levels in 5 % of its sets, and clean geometry in half of those: its colours are better
by replacement (docs/texture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from guidance.direct import joint_conditions
from guidance.prior import NoiseSchedule, Prediction, Prior, to_frames
from guidance.sample import ddim_sample

COLORS = 3  # the first channels of a frame


class Painter(Prior, Protocol):
    """A prior that knows colour for a given geometry."""

    def predict_color(self, z: Tensor, t: Tensor, conditions: Sequence[Any]) -> list[Prediction]:
        """As `predict`, where the channels behind the first COLORS of z (B, C, H, W) are clean."""
        ...


@dataclass(frozen=True)
class Given:
    """A painter of one geometry (B, C - COLORS, H, W), in the space that is noised, which is clean at every step."""

    prior: Painter
    geometry: Tensor

    @property
    def schedule(self) -> NoiseSchedule:
        return self.prior.schedule

    def predict(self, z: Tensor, t: Tensor, conditions: Sequence[Any]) -> list[Prediction]:
        return self.prior.predict_color(torch.cat([z[:, :COLORS], self.geometry], 1), t, conditions)


def paint_frames(
    prior: Painter,
    prompt: str,
    azimuth: Tensor,
    elevation: Tensor,
    frames: Tensor,
    noise: Tensor,
    steps: int,
    scale: float,
    clean: bool = False,
    guide_above: float = 0.0,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """`frames` (V, C, H, W) in [0, 1], renders of one object from azimuths and elevations (V,) in radians, with
    colours for `prompt` in place of theirs; alpha and normals are returned as given.

    `noise` (V, C, H, W): where the sampler starts. `scale`: Form A's w, at noise levels above `guide_above`. `clean`:
    geometry is clean, else by replacement. `on_step(i, frames)` sees each step's clean prediction and may raise to
    stop.
    """
    geometry, something = frames[:, COLORS:], frames[:, COLORS : COLORS + 1] > 0

    def known(x0: Tensor) -> Tensor:
        color = torch.where(something, to_frames(x0)[:, :COLORS], 0.5)
        return prior.encode(torch.cat([color, geometry], 1))

    conditions = joint_conditions(prior, prompt, azimuth, elevation)
    told = Given(prior, prior.encode(frames)[:, COLORS:]) if clean else prior
    watch = None if on_step is None else lambda i, x0: on_step(i, to_frames(x0))
    painted = to_frames(ddim_sample(told, conditions, noise, steps, scale, watch, guide_above, known))
    return torch.cat([painted[:, :COLORS], geometry], 1)
