"""The analytic prior: Gaussian mixtures, whose denoiser is known exactly. For tests and teaching, in any dimension.

For data sum_k pi_k N(mu_k, c_k^2 I) in d dimensions and z = a x + s eps, with v_k = a^2 c_k^2 + s^2:

    rho_k  = softmax_k[ log pi_k - ||z - a mu_k||^2 / (2 v_k) - (d/2) log v_k ]      the posterior of the component
    e(z,t) = s sum_k rho_k (z - a mu_k) / v_k                                       = E[eps | z]
    x0(z,t) = sum_k rho_k (s^2 mu_k + a c_k^2 z) / v_k                              = E[x | z] = (z - s e) / a

Both forms are computed directly, so neither loses digits where a or s vanishes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from guidance.prior import NoiseSchedule, Picture, Prediction, UnfitPicture, Views, scaled_linear_schedule, to_signed


@dataclass(frozen=True)
class Mixture:
    """K isotropic Gaussians. Weights need not sum to one; a `std` of 0 is a point mass.

    weights (K,), means (K, C, H, W), std (K,); or, different for each of B frames, all three with a leading B.
    Raises ValueError for shapes that do not agree, weights <= 0 and std < 0.
    """

    weights: Tensor
    means: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        if self.means.shape[:-3] != self.weights.shape or self.std.shape != self.weights.shape:
            shapes = f"{tuple(self.weights.shape)}, {tuple(self.means.shape)}, {tuple(self.std.shape)}"
            raise ValueError(f"a mixture needs weights (K,), means (K, C, H, W) and std (K,), got {shapes}")
        if not (bool((self.weights > 0).all()) and bool((self.std >= 0).all())):
            raise ValueError("a mixture needs weights above 0 and standard deviations of at least 0")


def empirical(images: Tensor) -> Mixture:
    """The data themselves, (K, C, H, W), as point masses: `denoise` then is the optimal denoiser of the set,

        D(z, sigma) = sum_i softmax_i( -|z/a - y_i|^2 / 2 sigma^2 ) y_i,

    one Gaussian mean-shift step of bandwidth sigma from z/a (2305.19947's view): annealed distillation is mean shift
    with a shrinking bandwidth, which is why all its seeds climb to one mode.
    """
    return Mixture(torch.ones(len(images)), images, torch.zeros(len(images)))


def stack_frames(mixtures: Sequence[Mixture]) -> Mixture:
    """Frame b gets mixtures[b] (or its own row of it, where that depends on the view). All must have as many
    components."""
    rows = [m if m.weights.dim() == 1 else Mixture(m.weights[b], m.means[b], m.std[b]) for b, m in enumerate(mixtures)]
    return Mixture(*(torch.stack([getattr(m, name) for m in rows]) for name in ("weights", "means", "std")))


@dataclass(frozen=True)
class AnalyticPrior:
    """A Prior that knows the mixture of each prompt in `mixtures`; the one under "" is unconditional.

    A mixture that depends on the view is given as a function of Views and returns a Mixture with a leading B.
    `frame_shape`: (C, H, W); a toy in the plane is (2, 1, 1). Means are in the space that is noised. By default that
    is the space of the frames (`encode` is the identity, and frames are not limited to [0, 1]), so that tests read
    like the formulas; with `images` frames are in [0, 1] and `encode` is 2 x - 1, as in other priors.
    Predictions have the dtype and device of z: use float64 to compare digits.
    """

    mixtures: Mapping[str, Mixture | Callable[[Views], Mixture]]
    frame_shape: tuple[int, int, int]
    schedule: NoiseSchedule = field(default_factory=scaled_linear_schedule)
    images: bool = False
    name: str = "analytic"

    @property
    def bound(self) -> float:
        """1 for pictures; infinity in a toy's plane."""
        return 1.0 if self.images else float("inf")

    def encode(self, frames: Tensor) -> Tensor:
        """(B, C, H, W) frames to x of the same shape: the identity, or 2 x - 1 with `images`."""
        return to_signed(frames) if self.images else frames

    def condition(self, prompt: str | Sequence[str], views: Views | None, picture: Picture | None = None) -> Mixture:
        """The prompt's mixture, seen from `views`; of a sequence, a prompt a frame. ValueError for an unknown prompt,
        or where views are missing; UnfitPicture for a picture."""
        if picture is not None:
            raise UnfitPicture("The analytic prior knows no pictures; choose --prior embedded.")
        if not isinstance(prompt, str):
            return stack_frames([self.condition(p, views) for p in prompt])
        if prompt not in self.mixtures:
            known = ", ".join(repr(name) for name in self.mixtures)
            raise ValueError(f"the analytic prior has no mixture for {prompt!r}; it knows {known}")
        mixture = self.mixtures[prompt]
        if not isinstance(mixture, Mixture):
            if views is None:
                raise ValueError(f"the mixture of {prompt!r} depends on the view: pass views")
            mixture = mixture(views)
        if mixture.means.shape[-3:] != self.frame_shape:
            shape = tuple(mixture.means.shape[-3:])
            raise ValueError(f"the means of {prompt!r} have shape {shape}, but frame_shape is {self.frame_shape}")
        return mixture

    @torch.no_grad()
    def predict(self, z: Tensor, t: Tensor, conditions: Sequence[Mixture]) -> list[Prediction]:
        """The exact prediction of each condition at z (B, C, H, W), t (B,). ValueError for another frame shape."""
        if z.shape[1:] != self.frame_shape:
            raise ValueError(f"z has shape {tuple(z.shape)}, but frame_shape is {self.frame_shape}")
        a, s = self.schedule.a(t).to(z), self.schedule.s(t).to(z)
        return [denoise(mixture, z, a, s) for mixture in conditions]

    @torch.no_grad()
    def predict_color(self, z: Tensor, t: Tensor, conditions: Sequence[Mixture]) -> list[Prediction]:
        """The same where only the first three channels of z are noisy: a = 1 and s = 0 in the others. Components need
        a `std` above 0."""
        a, s = (x.to(z).repeat(1, z.shape[1], 1, 1) for x in (self.schedule.a(t), self.schedule.s(t)))
        a[:, 3:], s[:, 3:] = 1, 0
        return [denoise(mixture, z, a, s) for mixture in conditions]


def denoise(mixture: Mixture, z: Tensor, a: Tensor, s: Tensor) -> Prediction:
    """E[x | z] and E[eps | z] for z (B, C, H, W) = a x + s eps, with x from the mixture and a, s (B, 1, 1, 1), or
    (B, C, 1, 1) where channels carry noise levels of their own."""
    a, s = a[:, None], s[:, None]  # (B, 1, 1 or C, 1, 1) beside (B, K, C, H, W)
    mean = mixture.means.to(z)
    c2 = mixture.std.to(z)[..., None, None, None] ** 2
    v = a**2 * c2 + s**2
    away = z[:, None] - a * mean
    each = z[0].numel() / v.shape[2]  # numbers that share a v
    exponent = (away.square().sum((3, 4), keepdim=True) / v).sum((2, 3, 4)) + each * v.log().sum((2, 3, 4))
    rho = torch.softmax(mixture.weights.to(z).log() - 0.5 * exponent, -1)[..., None, None, None]
    eps = (rho * s * away / v).sum(1)
    x0 = (rho * (s**2 * mean + a * c2 * z[:, None]) / v).sum(1)
    return Prediction(x0, eps)
