"""What every stage of a run works with: its clock, device, plan and loop; and what metadata.json says of it."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from app.errors import Cancelled, MissingError, UsageError
from app.export.preview import save_png
from app.methods import DIRECT
from app.optimize import Optimization, StepResult, Timings, optimize
from app.recipes import Recipe
from app.run.folder import OUTPUTS, Run
from app.run.live import Look, save_turntable
from app.run.progress import Progress
from app.text import quoted
from guidance.prior import Picture
from guidance.priors.embedded import EmbeddedPrior
from renderers.frames import stored

if TYPE_CHECKING:
    from app.pictures.intake import References


@dataclass
class Clock:
    """Seconds by part, for metadata.json, from `began` (a perf_counter reading). Never read by a decision."""

    began: float = field(default_factory=time.perf_counter)
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> float:
        return time.perf_counter() - self.began


def choose_device(name: str) -> torch.device:
    """cpu, or cuda where asked for (MissingError if there is none); auto takes a GPU that is there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise MissingError(
            "--device cuda was asked for, but torch sees no GPU; use --device cpu, or install a CUDA build of torch."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@dataclass
class Work:
    """What every stage of one run needs, and the timings of its loops."""

    recipe: Recipe
    run: Run
    progress: Progress
    clock: Clock
    stopped: Callable[[], bool]
    prior: EmbeddedPrior
    device: torch.device
    live: bool = False
    loops: list[Timings] = field(default_factory=list)
    references: References | None = None

    def told(self) -> Picture | None:
        """The pictures, for the prior."""
        return None if self.references is None else self.references.picture()

    def pause(self, where: str) -> None:
        """Between two parts without a loop: Cancelled if the run is to stop."""
        if self.stopped():
            self.run.event("cancelled", stage=where)
            again = f"continue with `polymode generate --resume {quoted(self.run.folder)}`."
            raise Cancelled(f"Cancelled before {where}; {again}")

    def loop(
        self,
        stage: str,
        state: Optimization,
        steps: int,
        step: Callable[[int], StepResult],
        look: Look | None = None,
        solid: bool = True,
    ) -> None:
        """Run a stage, from its checkpoint if there is one. `look` renders what it has, for the live turntable.
        `solid`: it moves a mesh."""
        saved = self.run.load_checkpoint(stage)
        if saved is not None:
            try:
                state.restore(*saved)
            except (KeyError, RuntimeError, ValueError) as e:
                path = self.run.checkpoints / f"{stage}.safetensors"
                raise UsageError(
                    f"The checkpoint {path} does not fit config.yaml; undo what was changed there, or remove the "
                    "checkpoint to redo its stage."
                ) from e
            self.run.event("resumed", stage=stage, step=state.start)

        def picture(name: str, result: StepResult) -> None:
            self.picture(name, result)
            if self.live and look is not None:
                save_turntable(self.run.previews / f"{name}.webp", look, self.device)

        self.loops.append(optimize(self.run, stage, state, steps, step, picture, self.progress, self.stopped, solid))

    def picture(self, name: str, result: StepResult) -> None:
        r, saw = result.rendered, result.denoised
        rows = [r.over().detach(), stored(r.normal.detach()), saw[:, :3]]
        save_png(self.run.previews / f"{name}.png", [*rows, saw[:, 4:]] if saw.shape[1] == 7 else rows)


def plan(recipe: Recipe) -> dict[str, float]:
    """The run's stages in order, and the seconds each takes on two CPU cores, roughly: an ETA needs their ratios."""
    out: dict[str, float] = {}
    d, f, r = recipe.direct, recipe.field, recipe.refine
    for k in range(recipe.best_of):
        tag = f"-{k}" if k else ""
        if DIRECT in (recipe.method, recipe.init):
            out[f"sample{tag}"] = 0.015 * d.steps * d.views
            out |= {f"fuse{n + 1}{tag}": 0.02 * d.fit + 0.5 for n in range(d.rounds)}
        if recipe.method != DIRECT:
            out[f"field{tag}"] = 0.13 * f.steps * f.sets
            out[f"mesh{tag}"] = 1.0
            if r.steps:
                rounds = min(r.rounds, r.steps)
                out |= {f"refine{n + 1}{tag}": 0.12 * r.steps * r.sets / rounds for n in range(rounds)}
    return out | {"texture": 4.0}


def metadata(recipe: Recipe, clock: Clock, prior: EmbeddedPrior | None, loops: list[Timings]) -> dict[str, Any]:
    """Versions, seed, device, prior, timings and peak memory of a run."""
    packages = (
        "polymode",
        "torch",
        "diffusers",
        "tokenizers",
        "numba",
        "numpy",
        "scikit-image",
        "xatlas",
        "trimesh",
    )
    out: dict[str, Any] = {
        "prompt": recipe.prompt,
        "seed": recipe.seed,
        "method": recipe.method,
        "preset": recipe.preset,
        "versions": {p: importlib.metadata.version(p) for p in packages},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "threads": torch.get_num_threads(),
        "precision": recipe.precision,
        "seconds": {k: round(v, 3) for k, v in clock.parts.items()} | {"total": round(clock.total(), 3)},
        "peak_memory_mb": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
        ),
    }
    if prior is not None:
        loop = sum(t.loop for t in loops)
        out["prior"] = {
            "name": prior.name,
            "shards": prior.config.get("shards"),
            "training": prior.config.get("training"),
        }
        out["seconds_prior"] = round(prior.usage.seconds, 3)
        out["seconds_render"] = round(loop - prior.usage.seconds, 3)  # rendering, backward passes, updates, previews
        out["seconds_fixed"] = round(clock.total() - loop, 3)
        out["loop_ratio"] = round(loop / max(prior.usage.seconds, 1e-9), 3)
        out["frame_forwards"] = prior.usage.frame_forwards
        out["ms_per_frame_forward"] = round(prior.usage.ms_per_frame_forward(), 3)
    return out


def folder_of(run: Run) -> dict[str, str]:
    """The files a finished run offers, by name, that exist."""
    return {n: str(Path(run.folder / n)) for n in OUTPUTS if (run.folder / n).is_file()}
