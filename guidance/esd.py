"""Entropic score distillation, ESD (VITA, 2401.00909): VSD with the entropy of the views put back.

    g = w(t) ( e_pre - lambda e_q(z; y, no camera) - (1 - lambda) e_q(z; y, c) )

lambda = 0 is VSD. lambda = 1 follows the KL of the view-marginal: views that all show the front crowd one mode of it,
and e_q(z; no camera) pushes them apart. The theory is about a view-blind teacher; where the prior knows the cameras,
the same mixture stands on both sides:

    e_pre = lambda e_cfg(z; y, no camera) + (1 - lambda) e_cfg(z; y, c).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from guidance.cfg import start_cfg
from guidance.method import (
    Guidance,
    Guided,
    Setup,
    Shown,
    draw_noise,
    encoded,
    finish,
    guided_prediction,
)
from guidance.prior import Prediction, Views
from guidance.score_model import LoRA, OnlineScore
from guidance.settings import ESD


def esd(e_pre: Tensor, e_q_camera: Tensor, e_q_blind: Tensor, entropy: float) -> Tensor:
    """g (B, C, H, W) before w(t); `entropy` is lambda."""
    return e_pre - entropy * e_q_blind - (1 - entropy) * e_q_camera


class ScoreGuidance:
    """The Guidance of VSD and ESD: teacher, online score, their mixture. `entropy` is lambda."""

    def __init__(self, setup: Setup, lora: LoRA, entropy: float):
        self.setup, self.entropy = setup, entropy
        self.score = OnlineScore(setup, lora)
        self.cfg = start_cfg(setup.cfg)

    def views(self, generator: torch.Generator) -> Views | None:
        return None

    def step(self, shown: Shown, generator: torch.Generator) -> Guided:
        x, t = encoded(self.setup, shown)
        with torch.no_grad():
            noise = draw_noise(x, generator, self.setup.frames_per_noise)
            z = self.setup.prior.schedule.add_noise(x, noise, t)
        loss = self.score.learn(x.detach(), shown.views)
        pre, q = self.pair(z, noise, t, shown.views)
        return finish(self.setup, shown, x, pre.eps - q, pre.x0, {"score_loss": loss})

    @torch.no_grad()
    def pair(self, z: Tensor, noise: Tensor, t: Tensor, views: Views) -> tuple[Prediction, Tensor]:
        """(the teacher's mixture, the online score's mixture as eps), each (B, C, H, W); z was noised by `noise`."""
        setup, entropy = self.setup, self.entropy
        pre = guided_prediction(setup, z, t, views, self.cfg)
        camera = torch.lerp(self.score.predict(z, t, views).eps, noise, self.score.options.known)
        if entropy == 0:
            return pre, camera
        if not setup.asked.blind:
            blind = replace(setup, asked=replace(setup.asked, blind=True))
            other = guided_prediction(blind, z, t, replace(views, frames_per_object=1), self.cfg)
            pre = Prediction(torch.lerp(pre.x0, other.x0, entropy), torch.lerp(pre.eps, other.eps, entropy))
        marginal = self.score.predict(z, t, None).eps
        return pre, entropy * marginal + (1 - entropy) * camera

    def tensors(self) -> dict[str, Tensor]:
        return self.score.tensors() | {f"cfg.{k}": v for k, v in self.cfg.tensors().items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.score.restore(tensors)
        self.cfg.restore({k[4:]: v for k, v in tensors.items() if k.startswith("cfg.")})


def start(setup: Setup, options: ESD) -> Guidance:
    return ScoreGuidance(setup, options.lora, options.entropy)
