"""Direct, stage 1: frames of one object, sampled jointly by the prior (guidance/direct.py)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from app.errors import Cancelled
from app.export.preview import save_png
from app.optimize import PREVIEWS, Timings
from app.recipes import DirectRecipe
from app.run.folder import Run
from app.run.progress import Progress
from app.text import quoted
from guidance.direct import sample_frames
from guidance.method import Drawn
from guidance.prior import Prior
from guidance.sample import knots
from guidance.settings import ELEVATIONS
from renderers.cameras import Cameras, make_cameras

if TYPE_CHECKING:
    from app.pictures.intake import References

LOW, HIGH = (math.radians(e) for e in ELEVATIONS)
OnStep = Callable[[int, Tensor], None]
ABOVE = math.radians(80)  # the fifth view's elevation, as the prior was trained


def direct_cameras(
    recipe: DirectRecipe, device: torch.device | str = "cpu", pictures: Cameras | None = None
) -> Cameras:
    """The views, from the front, equal angles apart, at one elevation, and the one from above if there is one. With
    `pictures`: from the first one and at its elevation, then those of the others."""
    count, above = around(recipe.views), torch.full((recipe.views - around(recipe.views),), ABOVE, device=device)
    azimuth = torch.arange(count, device=device) * (2 * math.pi / count)
    if pictures is None:
        elevation = torch.full((count,), math.radians(recipe.elevation), device=device)
        return make_cameras(torch.cat([azimuth, 0 * above]), torch.cat([elevation, above]))
    first = pictures.azimuth[0]
    elevation = pictures.elevation[0].clamp(LOW, HIGH).expand(count - 1)
    return make_cameras(
        torch.cat([first + azimuth, first + 0 * above, pictures.azimuth[1:]]),
        torch.cat([pictures.elevation[:1], elevation, above, pictures.elevation[1:]]),
    )


def around(views: int) -> int:
    """How many of the views look from equal angles around: of 5 the last looks from above."""
    return 4 if views == 5 else views


def picture_views(cameras: Cameras, pictures: Cameras) -> list[int]:
    """Which of `direct_cameras`' views the pictures are."""
    return [0, *range(len(cameras) - len(pictures) + 1, len(cameras))]


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
    references: References | None = None,
) -> tuple[Tensor, Drawn, Timings]:
    """Frames (V, C, H, W) in [0, 1], read from the run's checkpoint where they are already drawn, and what they were
    drawn from. With `references` the prior is told of the pictures, and their silhouettes are put into their views.
    """
    noise = torch.randn((len(cameras), *prior.frame_shape), generator=generator).to(cameras.device)
    start = float(cameras.azimuth[0]), float(cameras.elevation[1])
    drawn = Drawn(noise[: around(recipe.views)], *start, knots(recipe.steps), recipe.scale, recipe.guide_above)
    told: dict[str, Any] = {}
    if references is not None:
        which = picture_views(cameras, references.cameras)
        told = {"picture": references.picture(), "known": lambda f: with_silhouettes(f, references.frames, which)}

    def draw(on_step: OnStep) -> Tensor:
        angles = cameras.azimuth, cameras.elevation
        return sample_frames(
            prior, prompt, *angles, noise, recipe.steps, recipe.scale, on_step, recipe.guide_above, **told
        )

    frames, timings = sampling(run, stage, recipe.steps, draw, progress, stopped)
    return frames.to(cameras.device), drawn, timings


def sampling(
    run: Run,
    stage: str,
    steps: int,
    draw: Callable[[OnStep], Tensor],
    progress: Progress,
    stopped: Callable[[], bool],
) -> tuple[Tensor, Timings]:
    """A stage of `steps` steps that draws frames (V, C, H, W): draw(on_step), or the stage's checkpoint.

    Previews show the clean predictions. A cancelled sampling (Cancelled) starts again when resumed: it takes seconds.
    """
    saved = run.load_checkpoint(stage)
    bar = progress.stage(stage, steps, steps if saved else 0)
    if saved is not None:
        bar.close()
        run.event("resumed", stage=stage, step=saved[1])
        return saved[0]["frames"], Timings()
    begin, every = time.perf_counter(), max(1, steps // PREVIEWS)

    def on_step(i: int, frames: Tensor) -> None:
        done = i + 1
        bar.update(done)
        if i == 0 or done % every == 0 or done == steps:
            save_frames(run, f"{stage}-{done:05d}", frames)
            run.event("step", stage=stage, step=done, steps=steps, opacity=float(frames[:, 3].mean()))
        if stopped():
            run.event("cancelled", stage=stage, step=done)
            again = f"continue with `polymode generate --resume {quoted(run.folder)}`."
            raise Cancelled(f"Cancelled at step {done} of the {stage} stage; {again}")

    frames = draw(on_step)
    run.save_checkpoint(stage, {"frames": frames}, steps)
    bar.close()
    return frames, Timings(loop=time.perf_counter() - begin)


def with_silhouettes(frames: Tensor, pictures: Tensor, which: list[int]) -> Tensor:
    """Frames (V, 7, S, S) with the alpha of the pictures (K, 7, S, S) in the views `which`, nothing around it, and a
    picture's own colours where the frame had none."""
    out = frames.clone()
    mine, alpha = frames[which], pictures[:, 3:4]
    had = (mine[:, 3:4] / alpha.clamp(min=1e-3)).clamp(0, 1)  # how much of the silhouette was there already
    color = torch.where(alpha > 0, mine[:, :3] * had + pictures[:, :3] * (1 - had), mine[:, :3])
    color = 0.5 + (color - 0.5) * (alpha > 0)
    out[which] = torch.cat([color, alpha, 0.5 + (mine[:, 4:] - 0.5) * (alpha > 0)], 1)
    return out


def save_frames(run: Run, name: str, frames: Tensor) -> None:
    """A preview: a row of colours, one of alpha, one of normals."""
    save_png(run.previews / f"{name}.png", [frames[:, :3], frames[:, 3:4].expand(-1, 3, -1, -1), frames[:, 4:]])
