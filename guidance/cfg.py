"""Classifier-free guidance (2207.12598) and three refinements, in Form A: e = e_u + w (e_c - e_u).

w = 1 is conditional, w = 0 unconditional, w > 1 guided. Form B, e = e_c + w' (e_c - e_u), which many descendants of
DreamFusion use, is Form A with w = w' + 1: a scale of 100 there is 101 here.

    rescale (2305.08891)     x0' = x0 (phi std(x0_c) / std(x0) + 1 - phi), std over all frames of an object
    Perp-Neg (2304.04968)    e = e_u + w (p + sum_i w_i n_i_perp),  p = e_c - e_u,  n_i = e_neg,i - e_u,  w_i <= 0,
                             n_perp = n - <n, p> / |p|^2 p
    ZeResFDG (CADE 2.5, 2510.12954)   with G a 3 x 3 Gaussian blur, FDG(d) = g_lo G(d) + g_hi (d - G(d)):
        Z   alpha = <e_c, e_u> / |e_u|^2,   e = alpha e_u + w FDG(e_c - alpha e_u)
        R   e_c' = e_u + FDG(e_c - e_u),   o = e_u + w FDG(e_c - e_u), its RMS capped at 1.25 RMS(e_c'),
            e = .7 o std(e_c') / std(o) + .3 o
        Z -> R where the share of high-frequency energy of e_c - e_u, averaged over steps, reaches .60; back at .45

Inner products, norms and deviations are an object's: over all of its jointly denoised frames, so that no view is
scaled otherwise than the next. rescale acts on x0: of eps nearly all is the noise, and the ratio of deviations is 1.00
to 1.01 whatever the scale. ZeResFDG's average is kept for each time bucket: across random time steps one average means
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.prior import NoiseSchedule, Prediction, Views
from guidance.settings import CFG_KINDS, Cfg
from guidance.view_words import view_negatives

BUCKETS = 10  # of time, each with its own average and mode
TINY = 1e-6


def cfg(cond: Prediction, uncond: Prediction, scale: float) -> Prediction:
    """Guided prediction, (B, C, H, W) in both forms. `scale` is Form A's w.

    At one z, x0 = (z - s eps) / a is affine in eps, and the weights w and 1 - w sum to one: the forms stay consistent.
    """
    return Prediction(
        x0=uncond.x0 + scale * (cond.x0 - uncond.x0),
        eps=uncond.eps + scale * (cond.eps - uncond.eps),
    )


def _each_frame(of_objects: Tensor, frames: int) -> Tensor:
    """A number an object, (N,), as (N * frames, 1, 1, 1)."""
    return of_objects.repeat_interleave(frames)[:, None, None, None]


def dot(a: Tensor, b: Tensor, frames: int = 1) -> Tensor:
    """(B, 1, 1, 1) inner products over each object's `frames` neighbouring frames."""
    return _each_frame((a * b).reshape(len(a) // frames, -1).sum(1), frames)


def std(e: Tensor, frames: int = 1) -> Tensor:
    """(B, 1, 1, 1) standard deviation over each object's `frames` neighbouring frames."""
    return _each_frame(e.reshape(len(e) // frames, -1).std(1, correction=0), frames)


def rescale(guided: Tensor, cond: Tensor, phi: float, frames: int = 1) -> Tensor:
    """x0' (B, C, H, W): at phi 1 it has the deviation of `cond`, at 0 it is `guided`."""
    return guided * (phi * std(cond, frames) / std(guided, frames).clamp(min=TINY) + 1 - phi)


def perpendicular(n: Tensor, p: Tensor, frames: int = 1) -> Tensor:
    """n without its part along p, an object."""
    return n - dot(n, p, frames) / dot(p, p, frames).clamp(min=TINY) * p


def perp_neg(
    cond: Tensor, uncond: Tensor, negatives: Sequence[tuple[Tensor, Tensor]], scale: float, frames: int = 1
) -> Tensor:
    """e (B, C, H, W); `negatives`: (e_neg (B, C, H, W), weight (B,) at most 0)."""
    p = cond - uncond
    total = p
    for e, weight in negatives:
        total = total + weight.to(p)[:, None, None, None] * perpendicular(e - uncond, p, frames)
    return uncond + scale * total


def blur(d: Tensor) -> Tensor:
    """A 3 x 3 Gaussian of sigma 1, edges reflected (repeated where a frame is one pixel wide)."""
    k = torch.exp(-0.5 * torch.tensor([-1.0, 0.0, 1.0], dtype=d.dtype, device=d.device) ** 2)
    k = (k / k.sum())[:, None] * (k / k.sum())
    mode = "reflect" if min(d.shape[-2:]) > 1 else "replicate"
    return F.conv2d(F.pad(d, (1, 1, 1, 1), mode=mode), k.expand(d.shape[1], 1, 3, 3), groups=d.shape[1])


def fdg(d: Tensor, low: float, high: float) -> Tensor:
    """Low frequencies times `low`, the others times `high`."""
    smooth = blur(d)
    return low * smooth + high * (d - smooth)


def zero_projected(cond: Tensor, uncond: Tensor, scale: float, low: float, high: float, frames: int = 1) -> Tensor:
    """Mode Z, (B, C, H, W)."""
    alpha = dot(cond, uncond, frames) / dot(uncond, uncond, frames).clamp(min=TINY)
    return alpha * uncond + scale * fdg(cond - alpha * uncond, low, high)


def detailed(
    cond: Tensor,
    uncond: Tensor,
    scale: float,
    low: float,
    high: float,
    frames: int = 1,
    cap: float = 1.25,
    mix: float = 0.7,
) -> Tensor:
    """Mode R, (B, C, H, W)."""
    d = fdg(cond - uncond, low, high)
    filtered, out = uncond + d, uncond + scale * d
    ratio = std(filtered, frames) / std(out, frames).clamp(min=TINY)
    rms = dot(out, out, frames).sqrt().clamp(min=TINY)
    out = out * (cap * dot(filtered, filtered, frames).sqrt() / rms).clamp(max=1)
    return mix * ratio * out + (1 - mix) * out


def high_share(d: Tensor) -> float:
    """The share of high-frequency energy of d = e_c - e_u, over the whole batch."""
    smooth = blur(d)
    low, high = float(smooth.square().sum()), float((d - smooth).square().sum())
    return high / max(low + high, 1e-12)


def clamp_quantile(x0: Tensor, q: float) -> Tensor:
    """x0 (B, C, H, W) clamped to its own q and 1 - q quantiles, a frame."""
    flat = x0.flatten(1)
    low, high = (flat.quantile(v, 1, keepdim=True)[..., None, None] for v in (q, 1 - q))
    return x0.clamp(low, high)


@dataclass(frozen=True)
class Negative:
    """One Perp-Neg negative: a prompt a frame and its weight (B,), at most 0."""

    prompts: Sequence[str]
    weights: Tensor


def negatives(options: Cfg, prompt: str, negative: str, views: Views, view_words: bool) -> list[Negative]:
    """The negatives that this step's frames need: none but for perp-neg. With view words the neighbouring views',
    otherwise the negative prompt. ValueError where there is neither."""
    if options.kind != "perp-neg":
        return []
    if view_words:
        return [Negative(prompts, weights) for prompts, weights in view_negatives(prompt, views)]
    if not negative:
        raise ValueError("Perp-Neg needs a negative; give --guide.negative, or --guide.view-words.")
    n = len(views.azimuth)
    return [Negative([negative] * n, torch.full((n,), options.perp_weight))]


class CfgState:
    """Guidance with what ZeResFDG remembers between steps: a time bucket's average energy share and mode."""

    def __init__(self, options: Cfg):
        self.options = options
        self.share = torch.full((BUCKETS,), float("nan"))
        self.detail = torch.zeros(BUCKETS, dtype=torch.bool)

    def observe(self, bucket: int, share: float) -> bool:
        """Take in one energy share; True where the bucket is now in mode R. The first share starts the average."""
        o, old = self.options, float(self.share[bucket])
        mean = share if old != old else o.memory * old + (1 - o.memory) * share
        self.share[bucket] = mean
        self.detail[bucket] = mean > o.to_zero if bool(self.detail[bucket]) else mean >= o.to_detail
        return bool(self.detail[bucket])

    def guide(
        self,
        cond: Prediction,
        uncond: Prediction,
        negatives: Sequence[tuple[Prediction, Tensor]],
        z: Tensor,
        t: Tensor,
        schedule: NoiseSchedule,
        scale: float,
        frames: int = 1,
    ) -> Prediction:
        """The guided prediction at (z, t); `frames` neighbours are of one object."""
        o = self.options
        if o.kind == "plain":
            return cfg(cond, uncond, scale)
        if o.kind == "rescale":
            x0 = rescale(cfg(cond, uncond, scale).x0, cond.x0, o.rescale, frames)
            return Prediction.from_x0(x0, z, t, schedule)
        if o.kind == "perp-neg":
            eps = perp_neg(cond.eps, uncond.eps, [(p.eps, w) for p, w in negatives], scale, frames)
            return Prediction.from_eps(eps, z, t, schedule)
        if o.kind == "zeresfdg":
            bucket = min(BUCKETS - 1, int(t.float().mean()) * BUCKETS // len(schedule))
            mode = detailed if self.observe(bucket, high_share(cond.eps - uncond.eps)) else zero_projected
            guided = Prediction.from_eps(
                mode(cond.eps, uncond.eps, scale, o.gain_low, o.gain_high, frames), z, t, schedule
            )
            if o.quantile == 0:
                return guided
            return Prediction.from_x0(clamp_quantile(guided.x0, o.quantile), z, t, schedule)
        raise ValueError(f"Unknown kind of guidance {o.kind!r}; choose one of {', '.join(CFG_KINDS)}.")

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        return {"share": self.share, "detail": self.detail}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.share, self.detail = tensors["share"].clone(), tensors["detail"].clone()


def start_cfg(options: Cfg) -> CfgState:
    """A fresh state."""
    return CfgState(options)
