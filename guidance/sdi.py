"""Score distillation via inversion, SDI (2405.15891): SDS whose noise is the one that leads back to the render.

    kappa solves  kappa = e(a_t x + s_t kappa, t; y),  approximately: DDIM inversion of x up to t + tau under the
    prompt (in the paper with negative guidance, scale -w), plus a little fresh noise
    z_t = a_t x + s_t kappa,     g = w(t) ( e_cfg(z_t, t; w) - kappa )

The inversion goes from a first knot t_0, where a small prior's noise prediction can be believed, over about 10 t / T
more:

    z = a_0 x + s_0 eps at t_0,   then   z' = a' x0(z) + s' e(z)

eps is one noise a seed. Without it the first knot shows the network a picture with less noise than t_0 says; it finds
almost none, DDIM scales that up, and kappa ends with a standard deviation near .1 instead of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from guidance.cfg import start_cfg
from guidance.method import Guidance, Guided, Setup, Shown, draw_noise, encoded, finish, guided_prediction
from guidance.prior import NoiseSchedule, Prediction, Views
from guidance.settings import SDI

Predict = Callable[[Tensor, Tensor], Prediction]  # z (B, C, H, W), t (B,)


def invert(predict: Predict, x: Tensor, eps: Tensor, knots: Sequence[Tensor], schedule: NoiseSchedule) -> Tensor:
    """kappa (B, C, H, W): the noise predicted at the last of rising `knots`, each t (B,), on the DDIM path that starts
    at x noised by eps, both (B, C, H, W)."""
    z = schedule.add_noise(x, eps, knots[0])
    p = predict(z, knots[0])
    for t in knots[1:]:
        z = schedule.add_noise(p.x0, p.eps, t)
        p = predict(z, t)
    return p.eps


def sdi(guided: Prediction, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """g (B, C, H, W) before w(t): e_cfg - kappa, from x0, at z = a x + s kappa."""
    return schedule.a(t) / schedule.s(t) * (x - guided.x0)


def start(setup: Setup, options: SDI) -> Guidance:
    return InversionGuidance(setup, options)


class InversionGuidance:
    """The Guidance of SDI."""

    def __init__(self, setup: Setup, options: SDI):
        self.setup, self.options, self.cfg = setup, options, start_cfg(setup.cfg)
        self.inversion_scale = options.inversion_scale or -setup.scale

    def views(self, generator: torch.Generator) -> Views | None:
        return None

    def knots(self, t: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Rising time steps, each (B,), the last at t + tau; all of a batch have as many as its largest t needs."""
        schedule, o = self.setup.prior.schedule, self.options
        length = len(schedule)
        first = torch.full_like(t, schedule.t_at(o.sigma_first))
        tau = int(float(torch.rand((), generator=generator)) * o.tau * length)
        last = torch.maximum((t + tau).clamp(max=length - 1), first)
        count = max(1, int(o.steps * int(t.max()) / length))
        return [(first + (last - first) * k / count).round().long() for k in range(count + 1)]

    def first_noise(self, x: Tensor) -> Tensor:
        """The seed's eps, like x (B, C, H, W): the same at every step."""
        return draw_noise(x, self.setup.generator("inversion"), self.setup.frames_per_noise)

    def step(self, shown: Shown, generator: torch.Generator) -> Guided:
        setup, schedule = self.setup, self.setup.prior.schedule
        x, t = encoded(setup, shown)
        with torch.no_grad():

            def predict(z: Tensor, at: Tensor) -> Prediction:
                return guided_prediction(setup, z, at, shown.views, self.cfg, self.inversion_scale)

            kappa = invert(predict, x.detach(), self.first_noise(x), self.knots(t, generator), schedule)
            if self.options.fresh:
                kappa = kappa + self.options.fresh * schedule.s(t) * draw_noise(x, generator, setup.frames_per_noise)
            guided = guided_prediction(setup, schedule.add_noise(x, kappa, t), t, shown.views, self.cfg)
            g = sdi(guided, x, t, schedule)
        return finish(setup, shown, x, g, guided.x0)

    def tensors(self) -> dict[str, Tensor]:
        return self.cfg.tensors()

    def restore(self, tensors) -> None:
        self.cfg.restore(tensors)
