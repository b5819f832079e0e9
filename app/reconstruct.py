"""Pictures to an asset: the one function that the command line, the batch runner and the web UI call.

prepare (read, cut out, pose, a run folder)  ->  app/pipeline.py, which every run goes through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from app.errors import UsageError
from app.methods import DIRECT
from app.pictures.intake import check_angles, store, take
from app.recipes import INITS, Recipe, check, tidied
from app.run.folder import Run, create_run

MAX_PICTURES = 8


def picture_recipe(recipe: Recipe, count: int) -> Recipe:
    """`recipe` for `count` pictures, checked: distillation goes on from the direct result. UsageError for what cannot
    run."""
    if not 1 <= count <= MAX_PICTURES:
        raise UsageError(f"{count} pictures were given; give 1 to {MAX_PICTURES} pictures of one object.")
    if recipe.init not in INITS:
        raise UsageError("A reconstruction starts from its pictures; leave --init out.")
    out = dataclasses.replace(
        tidied(recipe),
        picture=dataclasses.replace(recipe.picture, count=count),
        init=recipe.init if recipe.method == DIRECT else DIRECT,
    )
    check(out)
    check_angles(count, out.picture)
    return out


def prepare(pictures: Sequence[Path], recipe: Recipe, out: Path | None) -> Run:
    """A run folder with the cut-out and posed pictures in it; `recipe` from `picture_recipe`. Nothing is written where
    a picture is refused (UsageError) or an extra is missing (MissingError)."""
    taken = take(pictures, recipe.picture)
    run = create_run(recipe, out, pictures[0].stem)
    store(run, taken, recipe.picture)
    return run
