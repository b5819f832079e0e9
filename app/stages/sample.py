"""Direct, stage 1: frames of one object, sampled jointly by the prior (guidance/direct.py)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from app.errors import Cancelled
from app.export.preview import save_png
from app.optimize import PREVIEWS, Timings
from app.progress import Progress
from app.recipes import DirectRecipe
from app.runs import Run
from guidance.direct import sample_frames
from guidance.prior import Prior
from renderers.cameras import Cameras, orbit


def direct_cameras(recipe: DirectRecipe, device: torch.device | str = "cpu") -> Cameras:
    """The views, from the front, 360°/views apart, at one elevation."""
    return orbit(recipe.views, math.radians(recipe.elevation), device=device)


def sample(
    run: Run,
    stage: str,
    recipe: DirectRecipe,
    prior: Prior,
    prompt: str,
    cameras: Cameras,
    generator: torch.Generator,
    progress: Progress,
    stopped: Callable[[], bool],
) -> tuple[Tensor, Timings]:
    """Frames (V, C, H, W) in [0, 1], read from the run's checkpoint where they are already drawn.

    Previews show the clean predictions. A cancelled sampling (Cancelled) starts again when resumed: it takes seconds.
    """
    saved = run.load_checkpoint(stage)
    bar = progress.stage(stage, recipe.steps, recipe.steps if saved else 0)
    if saved is not None:
        bar.close()
        run.event("resumed", stage=stage, step=saved[1])
        return saved[0]["frames"].to(cameras.device), Timings()
    begin = time.perf_counter()
    every = max(1, recipe.steps // PREVIEWS)

    def on_step(i: int, frames: Tensor) -> None:
        done = i + 1
        bar.update(done)
        if i == 0 or done % every == 0 or done == recipe.steps:
            save_frames(run, f"{stage}-{done:05d}", frames)
            run.event("step", stage=stage, step=done, steps=recipe.steps, opacity=float(frames[:, 3].mean()))
        if stopped():
            run.event("cancelled", stage=stage, step=done)
            again = f"continue with `polymode generate --resume {run.folder}`."
            raise Cancelled(f"Cancelled at step {done} of the {stage} stage; {again}")

    noise = torch.randn((len(cameras), *prior.frame_shape), generator=generator).to(cameras.device)
    frames = sample_frames(
        prior,
        prompt,
        cameras.azimuth,
        cameras.elevation,
        noise,
        recipe.steps,
        recipe.scale,
        on_step,
        recipe.guide_above,
    )
    run.save_checkpoint(stage, {"frames": frames}, recipe.steps)
    bar.close()
    return frames, Timings(loop=time.perf_counter() - begin)


def save_frames(run: Run, name: str, frames: Tensor) -> None:
    """A preview: a row of colours, one of alpha, one of normals."""
    save_png(run.previews / f"{name}.png", [frames[:, :3], frames[:, 3:4].expand(-1, 3, -1, -1), frames[:, 4:]])
