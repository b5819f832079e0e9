"""Diverse score distillation, DSD (2412.06780): one ODE seed a shape; its renders follow that seed's DDIM path.

    path    z' = a' x0_k + s' n_k,   n_k = e_cfg(z_k, t_k; w) from the seed eps*, at K knots; between them x^(t), n(t)
    zt = a_t x + s_t n,   zd = a_d x + s_d n,   n = n(t_d),   t_d >= t
    g = w(t) [ e_cfg(zt, t; w) - e_cfg(zd, t_d; w2) + hold (a_d / s_d) (x - x^(t_d)) ]

If x is the path's own x^ then zd is on the path, the last term is 0, and g is the DDIM increment. At t_d = t and
w2 = w, the paper's g (hold 0) is 0. The released code has w2 = 1 beside w = 7.5, which adds a pull of CSD; here w2 = w
unless asked.

`hold` is ours. The paper's g does not bring a render back: off the path by d, its two terms cancel up to the small
gap between t and t_d, and a small network's errors at two times do not. At hold 1 the pull is (a/s) d to first order.

A jointly denoised prior has no path for a single free camera. One anchor set (V frames, 90 degrees apart from the
front) is denoised from the seed; other cameras belong to bucket sets, denoised together with the anchors of the same
knot in joint attention, each camera with a noise of its own from the seed. The caller renders exactly at a set's
cameras, so a path is computed once a set and kept. View-blind priors have one seed for all cameras, and a path for
each word of view-dependent prompting.

Predictions are made as samples are: x0 within the prior's bounds, guidance left out under `guide_above`. All stages of
a run follow one path: its scale is the run's, not the stage's, and its guidance starts afresh. A run that goes on from
a direct sample takes that sample for its anchors: its noise, its knots, its guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guidance.cfg import CfgState, start_cfg
from guidance.method import Guidance, Guided, Setup, Shown, encoded, finish, guided_prediction
from guidance.prior import NoiseSchedule, Prediction, Views, bounded
from guidance.settings import DSD, Cfg
from guidance.view_words import with_view_words

RINGS = -5.0, 35.0  # degrees
Predict = Callable[[Tensor, Tensor], Prediction]  # z (B, C, H, W), t (B,)


@dataclass(frozen=True)
class Path:
    """A simulated DDIM path of B frames: falling knots, and at each the clean and the noise prediction."""

    knots: Sequence[int]
    x0: Sequence[Tensor]
    noise: Sequence[Tensor]

    def at(self, t: int) -> tuple[Tensor, Tensor]:
        """(x^, n), each (B, C, H, W), at time step t: linear between the knots, constant beyond the ends."""
        k = max([0, *(k for k, knot in enumerate(self.knots) if knot >= t)])
        if k + 1 == len(self.knots) or t >= self.knots[k]:
            return self.x0[k], self.noise[k]
        u = (self.knots[k] - t) / (self.knots[k] - self.knots[k + 1])
        return torch.lerp(self.x0[k], self.x0[k + 1], u), torch.lerp(self.noise[k], self.noise[k + 1], u)

    def state(self, t: int, schedule: NoiseSchedule) -> Tensor:
        """The path at t: a_t x^ + s_t n."""
        x0, noise = self.at(t)
        return schedule.add_noise(x0, noise, torch.full((len(x0),), t, device=x0.device))


@torch.no_grad()
def simulate(predict: Predict, seed: Tensor, knots: Sequence[int], schedule: NoiseSchedule) -> Path:
    """DDIM from seed noise (B, C, H, W), which stands at the first knot."""
    z, x0s, noises = seed, [], []
    for k, knot in enumerate(knots):
        t = torch.full((len(z),), knot, device=z.device)
        p = predict(z, t)
        x0s.append(p.x0)
        noises.append(p.eps)
        if k + 1 < len(knots):
            z = schedule.add_noise(p.x0, p.eps, torch.full_like(t, knots[k + 1]))
    return Path(list(knots), x0s, noises)


def dsd(
    now: Prediction,
    ahead: Prediction,
    x: Tensor,
    t: Tensor,
    t_d: Tensor,
    schedule: NoiseSchedule,
    on_path: Tensor | None = None,
    hold: float = 0.0,
) -> Tensor:
    """g (B, C, H, W) before w(t): e(zt, t) - e(zd, t_d), plus hold (a_d/s_d) (x - `on_path`). With one n in both,
    e = n + (a/s)(x - x0), so n drops out."""
    near, far = schedule.a(t) / schedule.s(t), schedule.a(t_d) / schedule.s(t_d)
    g = near * (x - now.x0) - far * (x - ahead.x0)
    return g if on_path is None else g + hold * far * (x - on_path)


def time_ahead(t: int, lowest: int, highest: int, generator: torch.Generator, share: float = 0.1) -> int:
    """t_d = t + U(0, 1) share (t - lowest), at least one step ahead, at most `highest`."""
    drawn = float(torch.rand((), generator=generator)) * share * max(0, t - lowest)
    return min(max(t + int(drawn), t + 1), max(highest, t))


def falling_knots(count: int, schedule: NoiseSchedule, sigma_max: float, sigma_min: float) -> list[int]:
    """`count` time steps evenly from sigma_max's down to sigma_min's."""
    ends = schedule.t_at(sigma_max), schedule.t_at(sigma_min)
    return torch.linspace(*ends, count).round().long().tolist()


def start(setup: Setup, options: DSD) -> Guidance:
    return PathGuidance(setup, options)


class PathGuidance:
    """The Guidance of DSD: the shape's seed and its paths."""

    def __init__(self, setup: Setup, options: DSD, anchors: int = 4):
        self.setup, self.options, self.cfg = setup, options, start_cfg(setup.cfg)
        self.schedule, drawn = setup.prior.schedule, setup.drawn
        if drawn is None:
            self.knots = falling_knots(options.knots, self.schedule, options.sigma_first, options.sigma_last)
            scale = setup.scale if setup.run_scale is None else setup.run_scale
            self.path_setup, self.path_above = replace(setup, scale=scale), options.guide_above
        else:
            self.knots = list(drawn.knots)
            self.path_setup, self.path_above = replace(setup, scale=drawn.scale, cfg=Cfg()), drawn.guide_above
        self.generator = setup.generator("path")
        self.seed = int(torch.randint(2**31, (), generator=self.generator))
        quarter = 2 * math.pi / anchors
        turn = torch.arange(anchors) * quarter
        pairs = [(0.0, math.radians(options.elevation)) if drawn is None else (drawn.azimuth, drawn.elevation)]
        rings = torch.linspace(*RINGS, options.rings).tolist()
        pairs += [(k * quarter / options.offsets, math.radians(e)) for e in rings for k in range(options.offsets)]
        pairs = list(dict.fromkeys(pairs))
        self.sets = [Views(start + turn, torch.full((anchors,), e), anchors) for start, e in pairs]
        self.paths: dict[int | str, Path] = {}

    def views(self, generator: torch.Generator) -> Views | None:
        """The anchor set, or a bucket set; anywhere where the prior is blind."""
        if self.setup.asked.blind:
            return None
        u, k = torch.rand((), generator=generator), torch.randint(len(self.sets), (), generator=generator)
        return self.sets[0 if float(u) < self.options.anchor_share else int(k)]

    def step(self, shown: Shown, generator: torch.Generator) -> Guided:
        x, t = encoded(self.setup, shown)
        size = shown.views.frames_per_object
        lowest = self.knots[-1]
        gs, x0s = [], []
        with torch.no_grad():
            for k in range(0, len(x), size):
                views = Views(shown.views.azimuth[k : k + size], shown.views.elevation[k : k + size], size)
                mine, now = x[k : k + size], int(t[k])
                ahead = time_ahead(now, lowest, self.knots[0], generator)
                path, context = self.path(views, mine)
                on_path, n = (v.expand_as(mine) for v in path.at(ahead))
                results = []
                for at, scale in ((now, None), (ahead, self.options.w2 or None)):
                    times = torch.full_like(t[k : k + size], at)
                    z = self.schedule.add_noise(mine, n, times)
                    results.append(self.predict(z, times, views, context, scale))
                times = t[k : k + size]
                then = torch.full_like(times, ahead)
                gs.append(dsd(results[0], results[1], mine, times, then, self.schedule, on_path, self.options.hold))
                x0s.append(results[0].x0)
        return finish(self.setup, shown, x, torch.cat(gs), torch.cat(x0s))

    def predict(
        self, z: Tensor, t: Tensor, views: Views, context: Path | None, scale: float | None = None
    ) -> Prediction:
        """The stage's guided prediction of a set."""
        return self._predict(self.setup, self.cfg, self.options.guide_above, z, t, views, context, scale)

    def simulated(self, views: Views, seed: Tensor, context: Path | None = None) -> Path:
        """The run's path of a set from start noise `seed`. Its guidance has a state of its own, so that a resumed run
        finds the same path."""
        state = start_cfg(self.path_setup.cfg)
        return simulate(
            lambda z, t: self._predict(self.path_setup, state, self.path_above, z, t, views, context),
            seed,
            self.knots,
            self.schedule,
        )

    def _predict(
        self,
        setup: Setup,
        cfg: CfgState,
        guide_above: float,
        z: Tensor,
        t: Tensor,
        views: Views,
        context: Path | None,
        scale: float | None = None,
    ) -> Prediction:
        """Beside the anchors of the same noise level where there is a context."""
        if float(self.schedule.sigma(t[:1].cpu())) < guide_above:
            scale = 1.0
        if context is None:
            return bounded(guided_prediction(setup, z, t, views, cfg, scale), z, t, setup.prior)
        anchors = self.sets[0]
        both = Views(
            torch.cat([anchors.azimuth.to(z.device), views.azimuth.to(z.device)]),
            torch.cat([anchors.elevation.to(z.device), views.elevation.to(z.device)]),
            2 * len(z),
        )
        state = context.state(int(t[0]), self.schedule)
        p = guided_prediction(setup, torch.cat([state, z]), torch.cat([t, t]), both, cfg, scale)
        return bounded(Prediction(p.x0[len(z) :], p.eps[len(z) :]), z, t, setup.prior)

    def path(self, views: Views, x: Tensor) -> tuple[Path, Path | None]:
        """(the path of these frames, the anchors' path for context or None); simulated when first asked for."""
        if views.frames_per_object == 1:
            word = with_view_words("", views)[0] if self.setup.asked.view_words else ""
            if word not in self.paths:
                self.paths[word] = self.simulated(views, self.noise(0, x))
            return self.paths[word], None
        k = self.find(views)
        if 0 not in self.paths:
            anchors = self.sets[0]
            at = Views(anchors.azimuth.to(x.device), anchors.elevation.to(x.device), len(x))
            self.paths[0] = self.simulated(at, self.noise(0, x))
        if k not in self.paths:
            self.paths[k] = self.simulated(views, self.noise(k, x), self.paths[0])
        return self.paths[k], self.paths[0] if k and self.options.context else None

    def noise(self, k: int, x: Tensor) -> Tensor:
        """Set k's start noise, like x (frames of one object), from the shape's seed, or the anchors' own."""
        drawn = self.setup.drawn
        if k == 0 and drawn is not None and len(drawn.noise) % len(x) == 0:
            return drawn.noise[:: len(drawn.noise) // len(x)].to(x)
        generator = torch.Generator().manual_seed(self.seed + k)
        return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    def find(self, views: Views) -> int:
        """Index of the set with these cameras. ValueError where there is none."""
        for k, s in enumerate(self.sets):
            if len(s.azimuth) == len(views.azimuth):
                off = torch.stack([s.azimuth - views.azimuth.cpu(), s.elevation - views.elevation.cpu()])
                if float((off.sin().abs() + 1 - off.cos()).max()) < 1e-3:
                    return k
        raise ValueError("DSD follows paths of fixed cameras; render at the set that its `views` returned.")

    def tensors(self) -> dict[str, Tensor]:
        return self.cfg.tensors()  # paths follow from the seed

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.cfg.restore(tensors)
