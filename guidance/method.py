"""What a guidance method is, what a step shows it, and the thin loop that the one-noise methods share.

A method is a frozen dataclass of its settings (guidance/settings.py) and a file with `start(setup, settings) ->
Guidance`: SDS, CSD, SSD, ... one each. A Guidance has the state (a LoRA, a path, nothing). One-noise methods (SDS,
CSD, SSD, NFSD) are pure estimators over `Evidence`: predictions of one noised frame. Their shared step is

    x = encode(frames),  z = a x + s eps,  predictions at (z, t),  g = w(t) estimator(evidence),  inject(x, g).

All of it is in epsilon form with classifier-free guidance in Form A; x0-predicting priors give both forms
(guidance/prior.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from guidance.cfg import Cfg, CfgState, negatives, start_cfg
from guidance.clip import clip_elements, clip_pixels
from guidance.inject import inject
from guidance.prior import NoiseSchedule, Picture, Prediction, Prior, Views
from guidance.schedule import Weight, s2_weight
from guidance.view_words import with_view_words


class UnfitMethod(ValueError):
    """A method cannot run on this prior; one sentence what, one what to do."""


@dataclass(frozen=True)
class Asked:
    """What the prior is told. `blind`: no cameras, frames are denoised one by one (the view-blind 2D prior), which are
    not told of a picture either. `view_words`: "front view" and so on joins the prompt by azimuth; for blind priors.
    `picture`: of the object that is wanted. Views are the world's, with or without one."""

    prompt: str
    negative: str = ""
    blind: bool = False
    view_words: bool = False
    picture: Picture | None = None

    def views(self, views: Views) -> Views | None:
        """What the prior is told of the views: None where it is blind."""
        return None if self.blind else views

    def frames(self, views: Views) -> int:
        """How many neighbouring frames are one object to the prior."""
        return 1 if self.blind else views.frames_per_object

    def condition(self, prior: Prior, prompt: str, views: Views) -> Any:
        """The condition of `prompt` for frames seen from `views`."""
        words = with_view_words(prompt, views) if self.view_words else prompt
        if self.picture is None or self.blind:
            return prior.condition(words, self.views(views))
        return prior.condition(words, views, self.picture)

    def pair(self, prior: Prior, views: Views) -> tuple[Any, Any]:
        """(conditional, unconditional): the latter knows neither prompt nor picture."""
        return self.condition(prior, self.prompt, views), prior.condition("", self.views(views))


@dataclass(frozen=True)
class Drawn:
    """The joint DDIM sample that a run goes on from (--init direct): start noise (V, C, H, W) of V views, 360/V
    degrees apart from `azimuth` at `elevation` (radians), and the sampler's knots, scale and `guide_above`."""

    noise: Tensor
    azimuth: float
    elevation: float
    knots: Sequence[int]
    scale: float
    guide_above: float


@dataclass(frozen=True)
class Setup:
    """What every method is started with. `scale`: Form A's w. `clip`: bound of |g|'s elements after weighting, 0 for
    none; `clip_pixel`: bound of a pixel's largest channel, 0 for none (guidance/clip.py). `frames_per_noise`:
    neighbouring frames that share one noise. `seed`: what the method itself draws (a DSD path, LoRA weights) follows
    from it. `run_scale`: the scale of what is drawn once for all stages of a run, None for `scale`; `drawn`: the
    sample that the run goes on from."""

    prior: Prior
    asked: Asked
    scale: float
    cfg: Cfg = field(default_factory=Cfg)
    weight: Weight = s2_weight
    clip: float = 0.0
    clip_pixel: float = 0.0
    frames_per_noise: int = 1
    seed: int = 0
    run_scale: float | None = None
    drawn: Drawn | None = None

    def generator(self, stream: str) -> torch.Generator:
        """A CPU generator of the method's own, by name."""
        digest = hashlib.sha256(f"{self.seed}:method:{stream}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class Shown:
    """One step: frames (B, C, H, W) in [0, 1] that carry the gradient, where they are seen from (always known to the
    caller, whatever the prior is told), time steps t (B,), equal within an object, and progress i/I in [0, 1]."""

    frames: Tensor
    views: Views
    t: Tensor
    progress: float = 0.0


@dataclass(frozen=True)
class Guided:
    """loss: scalar to call `backward` on. The rest is detached: gradient_norm (B,), the norm of each frame's g;
    x0 (B, C, H, W), the guided prediction in the prior's own space; t (B,); logs, numbers for people."""

    loss: Tensor
    gradient_norm: Tensor
    x0: Tensor
    t: Tensor
    logs: Mapping[str, float] = field(default_factory=dict)


class Guidance(Protocol):
    """A started method."""

    def step(self, shown: Shown, generator: torch.Generator) -> Guided:
        """Gradient of what was shown; noise comes from `generator`."""
        ...

    def views(self, generator: torch.Generator) -> Views | None:
        """Where the method wants this step's set of frames to be seen from; None: anywhere."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """State that a checkpoint must hold; may be empty."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        ...


@dataclass(frozen=True)
class Evidence:
    """Predictions at z = a x + s noise; x, z, noise (B, C, H, W) in the prior's own space, t (B,). `guided` is after
    classifier-free guidance; `negative` only where the estimator asked for it."""

    x: Tensor
    z: Tensor
    noise: Tensor
    t: Tensor
    schedule: NoiseSchedule
    cond: Prediction
    uncond: Prediction
    guided: Prediction
    negative: Prediction | None = None


Estimator = Callable[[Evidence], Tensor]
"""g (B, C, H, W) before the weight w(t), a function of the evidence alone, each frame by itself."""


def draw_noise(x: Tensor, generator: torch.Generator, frames_per_noise: int = 1) -> Tensor:
    """Standard normal noise in the shape, dtype and device of x (B, C, H, W), drawn on the generator's device.

    `frames_per_noise` neighbouring frames share one noise: 1 is independent noise, a set's size one noise an object.
    ValueError where it does not divide B.
    """
    if frames_per_noise < 1 or x.shape[0] % frames_per_noise:
        raise ValueError(f"{x.shape[0]} frames cannot share noise in groups of {frames_per_noise}")
    shape = (x.shape[0] // frames_per_noise, *x.shape[1:])
    noise = torch.randn(shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    return noise.repeat_interleave(frames_per_noise, 0)


def unguided(setup: Setup) -> bool:
    """Whether the set-up's own guidance is the conditional prediction: scale 1 of a kind that adds nothing there."""
    return setup.scale == 1 and setup.cfg.kind in ("plain", "rescale")


@torch.no_grad()
def guided_prediction(
    setup: Setup, z: Tensor, t: Tensor, views: Views, state: CfgState, scale: float | None = None
) -> Prediction:
    """The guided prediction at z (B, C, H, W), t (B,), one network call; `scale` other than the set-up's if given. A
    given scale of 1 leaves guidance of every kind out: the conditional prediction, and the other is not asked for."""
    if scale == 1 or unguided(setup):
        return setup.prior.predict(z, t, [setup.asked.pair(setup.prior, views)[0]])[0]
    return predictions(setup, z, t, views, state, scale)[0]


@torch.no_grad()
def predictions(
    setup: Setup,
    z: Tensor,
    t: Tensor,
    views: Views,
    state: CfgState,
    scale: float | None = None,
    negative: str | None = None,
) -> tuple[Prediction, Prediction, Prediction, Prediction | None]:
    """(guided, cond, uncond, negative) at z, t. `negative`: a prompt that the estimator wants predicted too."""
    prior, asked = setup.prior, setup.asked
    scale = setup.scale if scale is None else scale
    cond, uncond = asked.pair(prior, views)
    perpendicular = negatives(setup.cfg, asked.prompt, asked.negative, views, asked.view_words)
    told = [prior.condition(n.prompts, asked.views(views)) for n in perpendicular]
    extra = [] if negative is None else [asked.condition(prior, negative, views)]
    out = prior.predict(z, t, [cond, uncond, *told, *extra])
    pairs = [(p, n.weights) for p, n in zip(out[2 : 2 + len(told)], perpendicular, strict=True)]
    guided = state.guide(out[0], out[1], pairs, z, t, prior.schedule, scale, asked.frames(views))
    return guided, out[0], out[1], out[-1] if extra else None


def finish(setup: Setup, shown: Shown, x: Tensor, g: Tensor, x0: Tensor, logs: Mapping[str, float] = {}) -> Guided:
    """Weight, clip and inject g (B, C, H, W), which has no w(t) in it yet. x carries the graph to the frames."""
    g = setup.weight(shown.t.to(x.device), setup.prior.schedule) * g
    if setup.clip > 0:
        g = clip_elements(g, setup.clip)
    if setup.clip_pixel > 0:
        g = clip_pixels(g, setup.clip_pixel)
    return Guided(inject(x, g), g.flatten(1).norm(dim=1), x0, shown.t, logs)


def encoded(setup: Setup, shown: Shown) -> tuple[Tensor, Tensor]:
    """(x with its graph, t on its device). ValueError where t is not (B,)."""
    if shown.t.shape != shown.frames.shape[:1]:
        raise ValueError(f"t has shape {tuple(shown.t.shape)}, but there are {shown.frames.shape[0]} frames")
    return setup.prior.encode(shown.frames), shown.t.to(shown.frames.device)


class OneNoise:
    """The Guidance of a one-noise estimator. `negative`: a prompt whose prediction the estimator wants too. At scale
    1 with `conditional_only`, the unconditional prediction is not asked for (uncond is cond), which halves the
    work."""

    def __init__(
        self, setup: Setup, estimator: Estimator, negative: str | None = None, conditional_only: bool = False
    ):
        self.setup, self.estimator, self.negative = setup, estimator, negative
        self.single = conditional_only and unguided(setup)
        self.cfg = start_cfg(setup.cfg)

    def views(self, generator: torch.Generator) -> Views | None:
        return None

    def step(self, shown: Shown, generator: torch.Generator) -> Guided:
        setup = self.setup
        x, t = encoded(setup, shown)
        with torch.no_grad():
            noise = draw_noise(x, generator, setup.frames_per_noise)
            z = setup.prior.schedule.add_noise(x, noise, t)
            if self.single:
                (cond,) = setup.prior.predict(z, t, [setup.asked.pair(setup.prior, shown.views)[0]])
                guided, uncond, negative = cond, cond, None
            else:
                guided, cond, uncond, negative = predictions(
                    setup, z, t, shown.views, self.cfg, negative=self.negative
                )
            evidence = Evidence(x.detach(), z, noise, t, setup.prior.schedule, cond, uncond, guided, negative)
            g = self.estimator(evidence)
        return finish(setup, shown, x, g, guided.x0)

    def tensors(self) -> dict[str, Tensor]:
        return self.cfg.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.cfg.restore(tensors)
