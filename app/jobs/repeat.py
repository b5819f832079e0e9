"""An earlier run again: the same recipe, pictures and mesh to start from, as a new job."""

from __future__ import annotations

import dataclasses
import shutil
import time

from app.jobs.index import Index
from app.jobs.state import Job, new_job
from app.jobs.submit import fresh_folder, removed_on_error
from app.models import require
from app.recipe_yaml import load_recipe
from app.recipes import check
from app.run.folder import create_run
from app.run.work import choose_device
from app.text import slug


def repeat(index: Index, id: str, seed: int | None = None, max_queue: int = 0) -> Job:
    """Queue a new run with the recipe, pictures and mesh of run `id`; `seed` instead of its own if given. UsageError
    or MissingError for what cannot run, or where `max_queue` jobs wait or run already (0: no limit); DiskError where
    it cannot be written. Nothing is left then."""
    old, job = index.folder(id), index.get(id)
    recipe = load_recipe(old / "config.yaml")
    recipe = recipe if seed is None else dataclasses.replace(recipe, seed=seed)
    check(recipe)
    choose_device(recipe.device)
    require(recipe.prior)
    folder = fresh_folder(index.root, f"{slug(recipe.prompt or job.title)}-{time.strftime('%Y%m%d-%H%M%S')}")
    with removed_on_error(index, folder):
        run = create_run(recipe, folder)
        if recipe.picture.count:
            run.pictures.mkdir()
            for path in sorted((old / "pictures").glob("*.*")):
                shutil.copyfile(path, run.pictures / path.name)
        if (old / "start").is_dir():
            shutil.copytree(old / "start", run.start)
        return index.put(new_job(run, recipe, title=job.title), max_queue)
