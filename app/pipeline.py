"""Prompt to asset, the whole story on one page: field -> mesh -> refinement -> texture -> GLB -> pictures of the
re-read file."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.errors import CollapseError, MissingError, UserError
from app.export.bake import bake
from app.export.glb import read_glb, textured, write_glb
from app.export.preview import save_png
from app.export.unwrap import UnwrapError, unwrap
from app.export.video import VideoError, contact_sheet, turntable
from app.methods import METHODS
from app.models import load_prior
from app.optimize import Optimization, StepResult, Timings, optimize
from app.progress import Progress
from app.recipes import Recipe
from app.runs import Run, generators
from app.stages.field import field_step, start_field
from app.stages.mesh import extract, refine_step, start_refine
from guidance.priors.embedded import EmbeddedPrior
from renderers.fields import GridField
from renderers.raster import make_context


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


@contextmanager
def cancellation() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM ask the loop to stop after its step; a second SIGINT interrupts at once."""
    asked = False

    def ask(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)


def generate(recipe: Recipe, run: Run, progress: Progress, clock: Clock | None = None) -> dict[str, Any]:
    """Run every stage that `run` has not finished, and return metadata.json's content. UserError on anything a user
    can mend."""
    clock = clock or Clock()
    with cancellation() as stopped:
        try:
            return _generate(recipe, run, progress, clock, stopped)
        except UserError as e:
            run.event("stopped", exit_code=e.exit_code, reason=str(e))
            run.write_json(
                "metadata.json", metadata(recipe, clock, None, {}) | {"status": "stopped", "reason": str(e)}
            )
            raise


def _generate(
    recipe: Recipe, run: Run, progress: Progress, clock: Clock, stopped: Callable[[], bool]
) -> dict[str, Any]:
    device = choose_device(recipe.device)
    run.event("start", prompt=recipe.prompt, preset=recipe.preset, seed=recipe.seed, device=str(device))
    with clock.part("load"):
        prior = load_prior(recipe.prior, device)
    progress.say(
        f"{recipe.prompt!r} · {recipe.method} · {recipe.preset} · prior {prior.name} · seed {recipe.seed} · {device}"
    )
    streams = generators(recipe.seed)
    guide = METHODS[recipe.method]

    def resumed(stage: str, state: Optimization) -> None:
        saved = run.load_checkpoint(stage)
        if saved is not None:
            state.restore(*saved)
            run.event("resumed", stage=stage, step=state.start)

    def picture(name: str, result: StepResult) -> None:
        r = result.rendered
        save_png(
            run.previews / f"{name}.png", [r.over().detach(), 0.5 + 0.5 * r.normal.detach(), result.denoised[:, :3]]
        )

    grown, state = start_field(recipe.field, streams, device)
    resumed("field", state)
    step = field_step(grown, state, recipe.field, prior, recipe.prompt, guide)
    loops = [optimize(run, "field", state, recipe.field.steps, step, picture, progress, stopped)]

    with clock.part("mesh"):
        bar = progress.stage("mesh", 1)
        vertices, faces = extract(GridField(grown.raw_density.detach(), grown.raw_color.detach()), recipe.mesh)
        vertices, faces = vertices.to(device), faces.to(device)
        bar.update(1)
        bar.close()
    run.event("mesh", vertices=len(vertices), faces=len(faces))

    solid, state = start_refine(vertices, grown, recipe.refine, streams)
    if recipe.refine.steps:
        resumed("refine", state)
        step = refine_step(vertices, faces, solid, state, recipe.refine, prior, recipe.prompt, guide)
        loops.append(optimize(run, "refine", state, recipe.refine.steps, step, picture, progress, stopped))
        vertices = (vertices + state.parameters["offsets"]).detach()

    charts = export(recipe, run, progress, clock, vertices, faces, solid)
    result = metadata(recipe, clock, prior, {"loops": loops}) | {"status": "done"}
    result["mesh"] = {"vertices": len(vertices), "faces": len(faces), "charts": charts}
    run.write_json("metadata.json", result)
    run.event("done", seconds=round(clock.total(), 2))
    return result


def export(
    recipe: Recipe, run: Run, progress: Progress, clock: Clock, vertices: Tensor, faces: Tensor, solid: GridField
) -> int:
    """Unwrap, bake, write mesh.glb, read it back, and picture what was read. Returns the number of charts."""
    bar = progress.stage("texture", 4)
    context = make_context(vertices.device)
    with clock.part("unwrap"):
        try:
            unwrapped = unwrap(vertices, faces, recipe.texture.size)
        except (UnwrapError, ValueError) as e:
            raise CollapseError(str(e)) from e
    bar.update(1)
    with clock.part("bake"):
        texture = bake(context, lambda p: solid.color_at(p).detach(), unwrapped, recipe.texture.size)
        bar.update(2)
        extras = {"prompt": recipe.prompt, "seed": recipe.seed, "method": recipe.method, "prior": recipe.prior}
        glb = run.folder / "mesh.glb"
        write_glb(glb, textured(unwrapped, texture), extras=extras)
    bar.update(3)
    with clock.part("pictures"):
        asset = read_glb(glb)
        picture_context = make_context("cpu")
        contact_sheet(picture_context, asset, run.folder / "contact_sheet.png")
        try:
            turntable(picture_context, asset, run.folder / "turntable.mp4")
        except VideoError as e:
            raise MissingError(f"{e} The mesh is in {glb}; reinstall imageio-ffmpeg for the turntable.") from e
    bar.update(4)
    bar.close()
    return unwrapped.charts


def metadata(
    recipe: Recipe, clock: Clock, prior: EmbeddedPrior | None, loops: dict[str, list[Timings]]
) -> dict[str, Any]:
    """Versions, seed, device, prior, timings and peak memory of a run."""
    packages = (
        "polymode",
        "torch",
        "diffusers",
        "transformers",
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
        "seconds": {k: round(v, 3) for k, v in clock.parts.items()} | {"total": round(clock.total(), 3)},
        "peak_memory_mb": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
        ),
    }
    if prior is not None:
        loop = sum(t.loop for t in loops["loops"])
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
    names = ("mesh.glb", "turntable.mp4", "contact_sheet.png", "metadata.json", "config.yaml")
    return {n: str(Path(run.folder / n)) for n in names if (run.folder / n).is_file()}
