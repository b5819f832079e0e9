"""The loop every optimisation stage shares: step, backward, update; events, previews, checkpoints, collapse
detectors, cancel.

A stage supplies `step(i)`: cameras -> render -> guidance -> a scalar loss, and what was rendered. The loop never asks
a clock for a decision, so a resumed run continues bit by bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from app.errors import Cancelled, CollapseError
from app.run.folder import Run
from app.run.progress import Progress
from app.text import quoted
from guidance.method import Guidance
from renderers.frames import Rendered

EVENT_EVERY = 10
CHECKPOINT_EVERY = 100
PREVIEWS = 8  # a stage, besides its first step
PATIENCE = 10  # steps that a symptom must last
FAINT = 0.15  # opacity below which, everywhere, there is nothing left for guidance to hold on to


@dataclass(frozen=True)
class StepResult:
    """`loss`: scalar with a graph. `rendered`: what the prior was shown. `denoised`: (B, C, H, W) in [0, 1], what it
    answered. `logs`: numbers for events.jsonl."""

    loss: Tensor
    rendered: Rendered
    denoised: Tensor
    logs: dict[str, float]


@dataclass
class Detectors:
    """Stop a run that cannot recover. Symptoms must last PATIENCE steps, NaN stops at once. `solid`: what is shown is
    a mesh, which may fill the picture (a ball does)."""

    solid: bool = False

    empty: int = 0
    full: int = 0
    dead: int = 0

    def check(self, stage: str, i: int, result: StepResult, gradients: list[Tensor | None]) -> None:
        """CollapseError, in two sentences, on NaN, vanished or everywhere-opaque pictures, or a vanished gradient."""
        where = f"at step {i} of the {stage} stage"
        finite = all(bool(torch.isfinite(g).all()) for g in gradients if g is not None)
        if not math.isfinite(float(result.loss.detach())) or not finite:
            raise CollapseError(f"The optimisation produced NaN {where}. Try another --seed or lower learning rates.")
        alpha = result.rendered.alpha.detach()
        height, width = alpha.shape[-2:]
        y = torch.linspace(-1, 1, height, device=alpha.device)[:, None]
        x = torch.linspace(-1, 1, width, device=alpha.device)
        inside = alpha[..., (x * x + y * y) < 0.9].mean()  # the picture of the unit sphere, a little reduced
        peak = max((float(g.abs().max()) for g in gradients if g is not None), default=0.0)
        self.empty = self.empty + 1 if float(alpha.max()) < FAINT else 0
        self.full = self.full + 1 if float(inside) > 0.98 and not self.solid else 0
        self.dead = self.dead + 1 if peak < 1e-12 else 0
        if self.empty >= PATIENCE:
            raise CollapseError(f"The object vanished (opacity 0) {where}. Try another --seed or a plainer prompt.")
        if self.full >= PATIENCE:
            raise CollapseError(
                f"The object filled all of space (opacity 1) {where}. Try another --seed or a lower scale."
            )
        if self.dead >= PATIENCE:
            raise CollapseError(f"The gradient vanished {where}. Try another --seed or prompt.")


@dataclass
class Timings:
    """Seconds of a stage: in the loop as a whole, and in pictures and files within it."""

    loop: float = 0.0
    pictures: float = 0.0


def adam(parameters: dict[str, Tensor], rates: dict[str, float]) -> torch.optim.Optimizer:
    """Adam over named parameters, each at its own rate."""
    groups = [{"params": [p], "lr": rates[name]} for name, p in parameters.items()]
    return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)


@dataclass
class Optimization:
    """State of one stage: named parameters under one Adam, or under `optimizers`, extra tensors, generators; saved
    and restored as one file."""

    parameters: dict[str, Tensor]
    rates: dict[str, float]
    generators: dict[str, torch.Generator]
    extra: dict[str, Tensor] = field(default_factory=dict)
    start: int = 0
    optimizers: tuple[torch.optim.Optimizer, ...] = ()
    guidance: Guidance | None = None  # a started method, whose own state is saved with the rest

    @cached_property
    def movers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Adam is made when it is needed: with it comes torch's compiler, which takes longer to import than a step."""
        return self.optimizers or (adam(self.parameters, self.rates),)

    def backward(self, loss: Tensor) -> list[Tensor | None]:
        """The parameters' gradients, of `loss` (scalar) alone."""
        for mover in self.movers:
            mover.zero_grad(set_to_none=True)
        loss.backward()
        return [p.grad for p in self.parameters.values()]

    def update(self) -> None:
        """Every optimizer's step."""
        for mover in self.movers:
            mover.step()

    def mover(self, p: Tensor) -> torch.optim.Optimizer:
        """The optimizer that moves a parameter."""
        return next(m for m in self.movers if any(p is q for g in m.param_groups for q in g["params"]))

    def tensors(self) -> dict[str, Tensor]:
        out = {f"param.{k}": v for k, v in self.parameters.items()} | {f"extra.{k}": v for k, v in self.extra.items()}
        out |= {f"rng.{k}": g.get_state() for k, g in self.generators.items()}
        for name, p in self.parameters.items():
            out |= {f"adam.{name}.{k}": v for k, v in self.mover(p).state.get(p, {}).items()}
        if self.guidance is not None:
            out |= {f"guidance.{k}": v for k, v in self.guidance.tensors().items()}
        return out

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tensors[f"param.{name}"])
                prefix = f"adam.{name}."
                state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                if state:  # the step count stays on the CPU, as Adam keeps it
                    self.mover(p).state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}
        self.extra = {k[6:]: v for k, v in tensors.items() if k.startswith("extra.")}
        for name, g in self.generators.items():
            g.set_state(tensors[f"rng.{name}"])
        if self.guidance is not None:
            self.guidance.restore({k[9:]: v for k, v in tensors.items() if k.startswith("guidance.")})
        self.start = step


def optimize(
    run: Run,
    stage: str,
    state: Optimization,
    steps: int,
    step: Callable[[int], StepResult],
    picture: Callable[[str, StepResult], None],
    progress: Progress,
    stopped: Callable[[], bool],
    solid: bool = False,
) -> Timings:
    """Run steps `state.start` .. `steps`. `picture(name, result)` writes a preview. `solid`: the stage moves a mesh.
    Raises CollapseError or Cancelled (saved first)."""
    timings, detectors, begin = Timings(), Detectors(solid), time.perf_counter()
    every = max(1, steps // PREVIEWS)
    bar = progress.stage(stage, steps, state.start)
    for i in range(state.start, steps):
        result = step(i)
        detectors.check(stage, i, result, state.backward(result.loss))
        state.update()
        done = i + 1
        bar.update(done)
        mark = time.perf_counter()
        if i == 0 or done % every == 0 or done == steps:
            picture(f"{stage}-{done:05d}", result)
        if i == 0 or done % EVENT_EVERY == 0 or done == steps:
            run.event("step", stage=stage, step=done, steps=steps, loss=float(result.loss.detach()), **result.logs)
        cancelled = stopped()
        if done % CHECKPOINT_EVERY == 0 or done == steps or cancelled:
            run.save_checkpoint(stage, state.tensors(), done)
        timings.pictures += time.perf_counter() - mark
        if cancelled:
            run.event("cancelled", stage=stage, step=done)
            again = f"continue with `polymode generate --resume {quoted(run.folder)}`."
            raise Cancelled(f"Cancelled at step {done} of the {stage} stage; {again}")
    timings.loop = time.perf_counter() - begin
    bar.close()
    return timings
