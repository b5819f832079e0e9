"""A request becomes a queued job: the one function that the web page and the batch runner call."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.errors import FULL, DiskError, UsageError
from app.jobs.index import Index
from app.jobs.state import ACTIVE, QUEUED, Job, checked_title, new_job
from app.models import require
from app.recipes import Recipe, check
from app.reconstruct import picture_recipe, prepare
from app.run.folder import create_run
from app.run.work import choose_device
from app.text import control, mended, slug


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
            raise (DiskError if e.errno in FULL else UsageError)(
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
    here: bool = True,
) -> Job:
    """Queue a run. `name` of its folder, made from the prompt or the picture if left out. UsageError or MissingError,
    one sentence, for what cannot run, or where `max_queue` jobs wait or run already (0: no limit); DiskError where it
    cannot be written. Nothing is left then. `here`: this machine runs it, so that its device must be here."""
    if max_queue and len(index.list((QUEUED, *ACTIVE), limit=max_queue)) >= max_queue:
        raise UsageError(f"{max_queue} jobs are waiting, which is the limit; try again when some are done.")
    title = checked_title(title[:200]) if title else ""
    if name and (Path(name).name != name or name.startswith(".") or control(mended(name))):
        raise UsageError(f"{name[:80]!r} is no name for a folder; give one without slashes and dots before it.")
    if pictures:
        recipe = picture_recipe(recipe, len(pictures))
    else:
        check(recipe)
    if here:
        choose_device(recipe.device)
    require(recipe.prior)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    called = slug(recipe.prompt or (pictures[0].stem if pictures else ""))
    folder = fresh_folder(index.root, name or f"{called}-{stamp}")
    with removed_on_error(index, folder):
        run = prepare(pictures, recipe, folder) if pictures else create_run(recipe, folder)
        return index.put(new_job(run, recipe, priority, title, group), max_queue)


@contextmanager
def removed_on_error(index: Index, folder: Path) -> Iterator[None]:
    """A folder of `fresh_folder` goes if what is written into it fails. DiskError where that was a full disk."""
    try:
        yield
    except BaseException as e:
        shutil.rmtree(folder, ignore_errors=True)  # made by us, and known to nobody else
        if isinstance(e, OSError) and e.errno in FULL:
            raise DiskError(f"{index.root} cannot be written ({e.strerror}); make room, then try again.") from e
        raise
