"""How a run begins in this process: refused early, its modules loaded, then carried out. docs/performance.md has the
figures."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from app.export.size import parse_formats, require_formats
from app.recipes import Recipe

if TYPE_CHECKING:
    from app.run.folder import Run
    from app.run.progress import Progress
    from app.run.work import Clock


@contextmanager
def loading() -> Iterator[None]:
    """For imports: no garbage is looked for meanwhile, and never again among what they left.

    Importing torch and what stands on it makes half a million objects and hardly any garbage; looking through them
    again and again took a quarter of the time.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if on:
            gc.enable()


def ready(recipe: Recipe, began: float) -> Clock:
    """Refuse what cannot run before anything is written, and load the rest. The run's clock, which `began` then."""
    from app.models import require

    require_formats(parse_formats(recipe.export.format))
    require(recipe.prior)  # before torch loads: what is missing is said at once
    import app.pipeline  # noqa: F401
    from app.run.work import Clock, choose_device

    clock = Clock(began=began)
    clock.parts["imports"] = time.perf_counter() - began
    choose_device(recipe.device)
    return clock


def carry_out(recipe: Recipe, run: Run, clock: Clock, progress: Progress) -> dict[str, Any]:
    """The run from its folder to metadata.json's content, as a job that can be listed and cancelled from elsewhere."""
    from app.jobs.foreground import foreground
    from app.pipeline import generate

    progress.say(f"Run folder: {run.folder}")
    with foreground(run, recipe):
        return generate(recipe, run, progress, clock)
