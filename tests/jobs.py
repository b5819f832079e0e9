"""Small runs for the tests of jobs."""

from __future__ import annotations

import dataclasses
from typing import Any

from app.jobs.index import Index
from app.jobs.state import Job, new_job
from app.recipes import Recipe, preset
from app.run.folder import create_run

FIT = 150  # steps of the fit: a checkpoint after 100


def tiny(fit: int = FIT, **changes: Any) -> Recipe:
    """A direct run of few seconds."""
    r = preset("draft")
    return dataclasses.replace(
        r,
        prompt="a red mushroom",
        method="direct",
        direct=dataclasses.replace(r.direct, steps=2, rounds=1, fit=fit, hull=32),
        texture=dataclasses.replace(r.texture, size=128),
        mesh=dataclasses.replace(r.mesh, faces=800),
        **changes,
    )


def queued(index: Index, name: str, recipe: Recipe | None = None, priority: int = 0, title: str = "") -> Job:
    recipe = recipe or tiny()
    return index.put(new_job(create_run(recipe, index.root / name), recipe, priority, title))
