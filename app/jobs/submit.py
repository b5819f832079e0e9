"""A request becomes a queued job: the one function that the web page and the batch runner call."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from app.errors import UsageError
from app.jobs.index import Index
from app.jobs.state import ACTIVE, QUEUED, Job, new_job
from app.models import require
from app.pipeline import choose_device
from app.recipes import Recipe, check
from app.reconstruct import picture_recipe, prepare
from app.runs import create_run, slug


def fresh_folder(root: Path, name: str) -> Path:
    """A new, empty folder that no other process has."""
    n = 1
    while True:
        folder = root / (name if n == 1 else f"{name}-{n}")
        try:
            os.mkdir(folder)
            return folder
        except FileExistsError:
            n += 1
        except OSError as e:
            raise UsageError(
                f"The folder {folder} cannot be made ({e.strerror}); make room, or choose another."
            ) from e


def submit(
    index: Index,
    recipe: Recipe,
    pictures: Sequence[Path] = (),
    priority: int = 0,
    title: str = "",
    group: str = "",
    name: str = "",
    max_queue: int = 0,
) -> Job:
    """Queue a run. `name` of its folder, made from the prompt or the picture if left out. UsageError or MissingError,
    one sentence, for what cannot run, or where more than `max_queue` jobs wait (0: no limit); nothing is left then."""
    if max_queue and len(index.list((QUEUED, *ACTIVE), limit=max_queue)) >= max_queue:
        raise UsageError(f"{max_queue} jobs are waiting, which is the limit; try again when some are done.")
    if pictures:
        recipe = picture_recipe(recipe, len(pictures))
    else:
        check(recipe)
    choose_device(recipe.device)
    require(recipe.prior)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    called = slug(recipe.prompt or (pictures[0].stem if pictures else ""))
    folder = fresh_folder(index.root, name or f"{called}-{stamp}")
    try:
        run = prepare(pictures, recipe, folder) if pictures else create_run(recipe, folder)
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only where it is still empty
        raise
    return index.put(new_job(run, recipe, priority, title, group))
