"""f-distill (2502.15681): VSD whose gradient is weighted by a divergence's h of the density ratio.

    grad D_f(p || q) = - E[ w(t) h(r) (s_p - s_q) dx/dtheta ],   r = p_t(z) / q_t(z),   h(r) = f''(r) r^2

    reverse KL 1 (VSD)   softened reverse KL 1/(r+1)   Jensen-Shannon r/(r+1)   squared Hellinger sqrt(r)/4
    forward KL r         Jeffreys r+1                  adaptive alpha r + 1 - alpha

r comes from a small time-conditioned discriminator between noised renders and the noised bank of the prompt's joint
samples: exp(logit) with the logit within +-10, r within [.1, 20], divided by its running mean in ten bins of time; h
has mean 1 over a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from guidance.bank import sample_bank
from guidance.discriminator import Discriminator, discriminator_loss, r1
from guidance.esd import ScoreGuidance
from guidance.method import Guidance, Guided, Setup, Shown, draw_noise, encoded, finish
from guidance.prior import Views
from guidance.settings import FDistill

BINS = 10
R1_EVERY = 16
H: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse-kl": torch.ones_like,
    "soft-reverse-kl": lambda r: 1 / (r + 1),
    "js": lambda r: r / (r + 1),
    "hellinger": lambda r: r.sqrt() / 4,
    "forward-kl": lambda r: r,
    "jeffreys": lambda r: r + 1,
}


def h_of(divergence: str, alpha: float) -> Callable[[Tensor], Tensor]:
    """h of r (B,), both positive; "adaptive" mixes forward (alpha 1) and reverse KL (alpha 0). ValueError for a
    divergence that is none."""
    if divergence == "adaptive":
        return lambda r: alpha * r + 1 - alpha
    if divergence not in H:
        raise ValueError(f"Unknown divergence {divergence!r}; choose one of {', '.join((*H, 'adaptive'))}.")
    return H[divergence]


def start(setup: Setup, options: FDistill) -> Guidance:
    return RatioGuidance(setup, options)


class RatioGuidance:
    """The Guidance of f-distill: VSD's pair, a bank, a discriminator and the running means of r."""

    def __init__(self, setup: Setup, options: FDistill):
        self.setup, self.options, self.h = setup, options, h_of(options.divergence, options.alpha)
        self.pair = ScoreGuidance(setup, options.lora, 0.0)
        self.net = Discriminator(setup.prior.frame_shape[0], setup.generator("discriminator"))
        self.net.to(getattr(setup.prior, "device", "cpu"))
        self.adam = torch.optim.Adam(self.net.parameters(), lr=options.rate, betas=(0.0, 0.99))
        self.generator = setup.generator("bank")
        self.real: list[Tensor] = []
        self.mean = torch.full((BINS,), float("nan"))
        self.done = 0

    def views(self, generator: torch.Generator) -> Views | None:
        return None

    def step(self, shown: Shown, generator: torch.Generator) -> Guided:
        setup = self.setup
        x, t = encoded(setup, shown)
        with torch.no_grad():
            noise = draw_noise(x, generator, setup.frames_per_noise)
            z = setup.prior.schedule.add_noise(x, noise, t)
        loss = self.pair.score.learn(x.detach(), shown.views)
        pre, q = self.pair.pair(z, noise, t, shown.views)
        self.grow(shown.views)
        self.learn(x.detach(), t)
        r = self.ratio(z, t)
        h = self.h(r)
        h = h / h.mean().clamp(min=1e-8)
        g = h[:, None, None, None] * (pre.eps - q)
        return finish(setup, shown, x, g, pre.x0, {"score_loss": loss, "ratio": float(r.mean())})

    def grow(self, views: Views) -> None:
        """One more object into the bank, from this step's first object's cameras, until it is full."""
        if len(self.real) < self.options.bank:
            n = views.frames_per_object if views.frames_per_object > 1 else min(4, len(views.azimuth))
            one = Views(views.azimuth[:n], views.elevation[:n], views.frames_per_object)
            self.real.append(sample_bank(self.setup.prior, self.setup.asked, one, self.generator))

    def learn(self, x: Tensor, t: Tensor) -> None:
        """One update on x (B, C, H, W) against as many frames of the bank, each noised at t (B,)."""
        bank, schedule = torch.cat(self.real), self.setup.prior.schedule
        chosen = torch.randint(len(bank), (len(x),), generator=self.generator)
        real = schedule.add_noise(bank[chosen], draw_noise(x, self.generator), t)
        fake = schedule.add_noise(x, draw_noise(x, self.generator), t)
        loss = discriminator_loss(self.net, real, fake, t, t)
        if self.done % R1_EVERY == 0:
            loss = loss + 0.5 * self.options.gamma * r1(self.net, real, t)
        self.done += 1
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.adam.step()

    @torch.no_grad()
    def ratio(self, z: Tensor, t: Tensor) -> Tensor:
        """r (B,) of noised frames, over its running mean in t's bin."""
        r = self.net(z, t).clamp(-10, 10).exp().clamp(0.1, 20)
        length = len(self.setup.prior.schedule)
        bins = (t.cpu() * BINS // length).clamp(max=BINS - 1)
        for k in bins.unique().tolist():
            now, old = float(r[bins.to(r.device) == k].mean()), float(self.mean[k])
            keep = 0.0 if old != old else self.options.memory
            self.mean[k] = keep * (old if keep else 0.0) + (1 - keep) * now
        return r / self.mean[bins].to(r)

    def tensors(self) -> dict[str, Tensor]:
        out = {f"pair.{k}": v for k, v in self.pair.tensors().items()}
        out |= {f"net.{k}": v for k, v in self.net.state_dict().items()}
        for i, p in enumerate(self.net.parameters()):
            out |= {f"adam.{i}.{k}": v for k, v in self.adam.state.get(p, {}).items()}
        out |= {f"real.{i}": x for i, x in enumerate(self.real)}
        return out | {"mean": self.mean, "done": torch.tensor(self.done), "rng": self.generator.get_state()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.pair.restore(part("pair."))
        self.net.load_state_dict(part("net."))
        for i, p in enumerate(self.net.parameters()):
            if state := part(f"adam.{i}."):
                self.adam.state[p] = {k: v if k == "step" else v.clone().to(p.device) for k, v in state.items()}
        real = part("real.")
        self.real = [real[str(i)].clone().to(next(self.net.parameters()).device) for i in range(len(real))]
        self.mean, self.done = tensors["mean"].clone(), int(tensors["done"])
        self.generator.set_state(tensors["rng"])
