"""What can be set of every guidance method: frozen dataclasses, from which flags, forms and saved YAML come.

Apart from the formulas, so that a command line knows its flags before torch is loaded: nothing here imports it. A
method's formula and its paper are in the file of the same name; guidance/start.py joins the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field

VIEWS = 4  # of one object, 90 degrees apart: what a joint prior denoises together
ELEVATIONS = -10.0, 45.0  # degrees: where the embedded prior was trained, and distillation looks from
PICTURE_ELEVATIONS = -10.0, 40.0  # the same of the pictures it was told of
STEPS, SCALE, GUIDE_ABOVE = 12, 5.0, 3.0  # of a joint DDIM sample: steps, Form A's w, the sigma under which w is 1

CFG_KINDS = ("plain", "rescale", "perp-neg", "zeresfdg")
WEIGHT_NAMES = ("s2", "uniform")
DIVERGENCES = ("reverse-kl", "soft-reverse-kl", "js", "hellinger", "forward-kl", "jeffreys", "adaptive")


@dataclass(frozen=True)
class Cfg:
    """Which classifier-free guidance, and its numbers."""

    kind: str = "plain"
    """plain, rescale, perp-neg (uses the negative prompt, or view words), zeresfdg."""
    rescale: float = 0.7
    """rescale: phi, the share of the guided prediction that gets the conditional one's deviation."""
    perp_weight: float = -1.0
    """perp-neg: weight of the negative prompt, at most 0."""
    gain_low: float = 0.6
    """zeresfdg: gain of low frequencies."""
    gain_high: float = 1.3
    """zeresfdg: gain of high frequencies."""
    memory: float = 0.8
    """zeresfdg: how much of the average energy share is kept at each step."""
    to_detail: float = 0.6
    """zeresfdg: energy share from which the detail mode R is on."""
    to_zero: float = 0.45
    """zeresfdg: energy share down to which the detail mode stays on."""
    quantile: float = 0.001
    """zeresfdg: x0 is clamped to this quantile and its opposite, a frame; 0 is none."""


@dataclass(frozen=True)
class LoRA:
    """The online score."""

    rank: int = 8
    """Rank of the LoRA on every attention projection."""
    rate: float = 1e-3
    """AdamW's learning rate."""
    updates: int = 1
    """Updates a step."""
    known: float = 0.5
    """Share of the noise, the optimum of one object's score at one camera, in that score; 0 is the papers'."""
    warm: int = 20
    """Updates on the first renders, before the first gradient."""
    drop: float = 0.1
    """Share of the updates without camera."""
    sigma_min: float = 0.315
    """Lowest noise level of an update."""
    sigma_max: float = 13.0
    """Highest noise level of an update."""


@dataclass(frozen=True)
class SDS:
    """Score distillation sampling: has no settings of its own."""


@dataclass(frozen=True)
class CSD:
    """Classifier score distillation."""

    positive: float = 1.0
    """w1, the weight of e_c - e_u, where there is a negative prompt."""
    negative: float = 1.0
    """w2, the weight of e_u - e_neg, where there is a negative prompt."""


@dataclass(frozen=True)
class SSD:
    """Stable score distillation."""

    sigma_m: float = 3.5  # the paper's t = 200 is 0.572 of Stable Diffusion's: far too late for frames of 64 pixels
    """M: noise level sigma above which the mode-disengaging term is followed alone."""


@dataclass(frozen=True)
class NFSD:
    """Noise-free score distillation. Without a negative prompt it takes words for bad quality."""

    sigma_noisy: float = 1.2
    """Noise level sigma from which the negative prompt's prediction is subtracted (the paper's t = 200 is 0.572 of
    Stable Diffusion's: far too late for frames of 64 pixels)."""


@dataclass(frozen=True)
class VSD:
    """Variational score distillation."""

    lora: LoRA = field(default_factory=LoRA)


@dataclass(frozen=True)
class ESD:
    """Entropic score distillation."""

    entropy: float = 0.5
    """Lambda: 0 is VSD, 1 the view-marginal alone."""
    lora: LoRA = field(default_factory=LoRA)


@dataclass(frozen=True)
class SDI:
    """Score distillation via inversion."""

    inversion_scale: float = 1.0
    """Guidance scale of the inversion, Form A; 0 stands for minus the stage's scale, the paper's, which on a small
    prior leads to noise that no picture has."""
    steps: int = 10
    """Knots of an inversion up to the largest time step; fewer below, in proportion."""
    sigma_first: float = 0.6
    """Noise level of the first knot."""
    tau: float = 0.033
    """The inversion ends a random share of up to this, of all time steps, above t."""
    fresh: float = 0.0
    """Fresh noise added to kappa, in units of s_t; 0.3 is the paper's."""


@dataclass(frozen=True)
class DSD:
    """Diverse score distillation."""

    w2: float = 0.0
    """Guidance scale of the second term, Form A; 0 stands for the stage's own scale (the released code has 1)."""
    hold: float = 1.0
    """Pull back to the path; 0 is the paper's estimator."""
    guide_above: float = GUIDE_ABOVE
    """Noise level sigma under which guidance is left out, on the path and off it."""
    knots: int = STEPS
    """Knots of the path."""
    sigma_first: float = 1000.0
    """Noise level of the first knot, where the path starts as pure noise; one that the schedule does not reach stands
    for its last step. At 13 frames lack the mean of a_t x, which a prior reads as half-empty silhouettes."""
    sigma_last: float = 0.315
    """Noise level of the last knot."""
    elevation: float = 15.0
    """Elevation of the anchor set, degrees."""
    offsets: int = 4
    """Bucket sets start at this many azimuths, equally spaced within 90 degrees."""
    rings: int = 3
    """Elevations of the bucket sets, equally spaced from -5 to 35 degrees."""
    anchor_share: float = 0.5
    """Share of the steps that look from the anchor set."""
    context: bool = True
    """Bucket sets are denoised together with the anchors at every step, not only on their path (twice the frames)."""


@dataclass(frozen=True)
class FDistill:
    """f-distill."""

    divergence: str = "js"
    """reverse-kl, soft-reverse-kl, js, hellinger, forward-kl, jeffreys or adaptive."""
    alpha: float = 0.5
    """adaptive: share of forward KL."""
    bank: int = 8
    """Objects of the prompt's bank, sampled one a step from that step's cameras."""
    rate: float = 1e-3
    """Adam's learning rate of the discriminator."""
    gamma: float = 1.0
    """Weight of R1, every 16th update."""
    memory: float = 0.5
    """How much of a time bin's mean ratio is kept at each step."""
    lora: LoRA = field(default_factory=LoRA)


Method = SDS | CSD | SSD | NFSD | VSD | ESD | SDI | DSD | FDistill
"""Settings of one method."""
