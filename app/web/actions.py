"""What the page and its endpoints do: each a function of the site and plain values, that answers with plain values.

Nothing of a request is trusted: types and ranges are judged here and in app/recipes.py, names of runs in the index,
uploads in app/pictures/read.py. UserError, one sentence, for whatever cannot be done.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradio.utils import get_upload_folder

from app.errors import UsageError, UserError
from app.export.size import parse_formats, require_formats
from app.jobs import state
from app.jobs.repeat import repeat
from app.jobs.state import Job
from app.jobs.submit import submit
from app.models import known_models
from app.recipes import BACKGROUNDS, MAX_PROMPT, PRESETS, PictureRecipe, Recipe, check, picture_preset, preset, tidied
from app.reconstruct import MAX_PICTURES, picture_recipe
from app.settings import pictured, replaced, with_settings
from app.text import plainly, shown
from app.web.files import downloads, facts
from app.web.site import Site, plain, whole

MOST_SEEDS = 8
MOST_LISTED = 500
SEEDS = 2**53 - 1  # what JSON numbers hold


def priors() -> list[str]:
    """Those that are offered: aliases, not paths."""
    return [m.alias for m in known_models() if m.state() == "ready"]


def _recipe(of: Callable[[str], Recipe], prompt: Any, chosen: Mapping[str, Any], settings: Any) -> Recipe:
    """A preset's recipe with the request's choices and settings. None and "" leave the preset's."""
    name = plain(chosen.get("preset") or "draft", "The preset", 40)
    if name not in PRESETS:
        raise UsageError(f"Unknown preset {name!r}; choose one of {', '.join(PRESETS)}.")
    if settings is not None and not isinstance(settings, Mapping):
        raise UsageError('Settings must be names and values, such as {"field.steps": 200}; correct them.')
    recipe = dataclasses.replace(of(name), prompt=plain(prompt, "The prompt", MAX_PROMPT))
    if chosen.get("method"):
        recipe = dataclasses.replace(recipe, method=plain(chosen["method"], "The method", 40))
    if chosen.get("prior"):
        recipe = dataclasses.replace(recipe, prior=plain(chosen["prior"], "The prior", 100))
    if recipe.prior not in {m.alias for m in known_models()}:
        raise UsageError(f"Unknown prior {recipe.prior!r}; choose one of {', '.join(priors())}.")
    recipe = dataclasses.replace(recipe, seed=whole(chosen.get("seed") or 0, "The seed", 0, SEEDS))
    recipe = with_settings(recipe, settings or {})
    if chosen.get("format"):
        recipe = replaced(recipe, ("export", "format"), formats(chosen["format"]))
    require_formats(parse_formats(recipe.export.format))
    if chosen.get("faces"):
        faces = whole(chosen["faces"], "The number of faces", 100, 200_000)
        recipe = dataclasses.replace(recipe, mesh=dataclasses.replace(recipe.mesh, faces=faces))
    return recipe


def formats(value: Any) -> str:
    """Formats with commas, from a list of names or such a text."""
    names = value if isinstance(value, list | tuple) else [value]
    return ",".join(plain(n, "A format", 40) for n in names)


def _queue(site: Site, recipe: Recipe, count: Any, pictures: Sequence[Path] = ()) -> list[Job]:
    """One job for each of `count` seeds, from the recipe's on, in one group."""
    count = whole(1 if count is None else count, "The number of seeds", 1, MOST_SEEDS)
    group = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}" if count > 1 else ""
    unnamed = bool(pictures) and not recipe.prompt
    title = shown(pictures[0].stem, 200).strip() if unnamed else ""
    with site.lock:
        waiting = len(site.waiting())
        if waiting + count > site.max_queue:
            raise UsageError(
                f"{waiting} jobs are waiting, and {count} more would pass the limit of {site.max_queue}; try again "
                "when some are done."
            )
        seeds = [dataclasses.replace(recipe, seed=(recipe.seed + k) % (SEEDS + 1)) for k in range(count)]
        return [submit(site.index, r, pictures, title=title, group=group) for r in seeds]


def generate(site: Site, prompt: Any, count: Any = 1, settings: Any = None, **chosen: Any) -> list[Job]:
    """Queue a prompt: `chosen` are preset, method, seed, faces, prior, format. Returns a job for each of `count`
    seeds."""
    recipe = _recipe(preset, prompt, {"method": "direct"} | {k: v for k, v in chosen.items() if v}, settings)
    recipe = tidied(recipe)
    check(recipe)
    return _queue(site, recipe, count)


def angles(value: Any, what: str) -> tuple[float, ...]:
    """Degrees from text ("0, 90") or a list of numbers; () for nothing."""
    parts = value.replace(";", ",").split(",") if isinstance(value, str) else value
    if parts is None or parts == [""] or parts == []:
        return ()
    try:
        numbers = tuple(float(p) for p in parts if not isinstance(p, bool))
    except (TypeError, ValueError, OverflowError) as e:
        raise UsageError(f"The {what} must be numbers of degrees, such as 0, 90; correct it.") from e
    if len(numbers) != len(parts) or not all(math.isfinite(n) for n in numbers):
        raise UsageError(f"The {what} must be numbers of degrees, such as 0, 90; correct it.")
    return numbers


def uploads(files: Any) -> list[Path]:
    """The uploaded files of a request: paths that Gradio made, or its file objects. UsageError for anything else."""
    if files is None or files == []:
        raise UsageError("There is no picture; upload one, or several of one object.")
    if not isinstance(files, list | tuple) or len(files) > MAX_PICTURES:
        raise UsageError(f"Give 1 to {MAX_PICTURES} pictures of one object.")
    out, folder = [], Path(get_upload_folder()).resolve()
    for value in files:
        name = value.get("path") if isinstance(value, Mapping) else value
        if not isinstance(name, str) or "\0" in name or len(name) > 1000:
            raise UsageError("A picture must be an uploaded file; upload it again.")
        path = Path(name).resolve()
        if not path.is_relative_to(folder) or not path.is_file():
            raise UsageError("A picture must be an uploaded file; upload it again.")
        out.append(path)
    return out


def reconstruct(
    site: Site,
    files: Any,
    prompt: Any = "",
    count: Any = 1,
    settings: Any = None,
    background: Any = "auto",
    azimuth: Any = None,
    elevation: Any = None,
    **chosen: Any,
) -> list[Job]:
    """Queue pictures; otherwise as `generate`."""
    pictures = uploads(files)
    background = plain(background or "auto", "The background", 40)
    if background not in BACKGROUNDS:
        raise UsageError(f"Unknown background {background!r}; choose one of {', '.join(BACKGROUNDS)}.")
    given = PictureRecipe(background, angles(azimuth, "azimuth"), angles(elevation, "elevation"))
    recipe = pictured(_recipe(picture_preset, prompt or "", chosen, settings), given)
    picture_recipe(recipe, len(pictures))
    try:
        return _queue(site, recipe, count, pictures)
    except UserError as e:  # without the place where uploads are kept
        text = str(e)
        for p in pictures:
            text = text.replace(str(p), p.name)
        raise type(e)(text) from e


def status(site: Site, id: Any) -> dict[str, Any]:
    """A job, with its progress while it runs."""
    folder = site.index.folder(plain(id, "A run", 300))
    job = site.index.get(folder.name)
    return told(job) | {"progress": state.read_json(folder / state.PROGRESS) if job.state in state.ACTIVE else None}


def told(job: Job) -> dict[str, Any]:
    """A job as an endpoint tells it."""
    told = {k: v for k, v in dataclasses.asdict(job).items() if k != "pid"}
    return {k: plainly(v) if isinstance(v, str) else v for k, v in told.items()}


def runs(site: Site, search: Any = "", only: Any = "all", limit: Any = 50, offset: Any = 0) -> list[Job]:
    """Runs whose title has `search` in it, in the state `only` ("all"), newest first."""
    site.sync()
    only = plain(only or "all", "The state", 40)
    if only != "all" and only not in state.STATES:
        raise UsageError(f"Unknown state {only!r}; choose all, {', '.join(state.STATES)}.")
    most, skip = whole(limit, "The limit", 1, MOST_LISTED), whole(offset, "The offset", 0, 10**9)
    states = state.STATES if only == "all" else (only,)
    return site.jobs(states, plain(search or "", "The search"), most, skip)


def cancel(site: Site, id: Any) -> Job:
    return site.index.cancel(plain(id, "A run", 300))


def resume(site: Site, id: Any) -> Job:
    """Queue a cancelled or failed run again; it goes on from its checkpoints."""
    with site.lock:
        waiting = len(site.waiting())
        if waiting >= site.max_queue:
            raise UsageError(f"{waiting} jobs are waiting, which is the limit; try again when some are done.")
        return site.index.resume(plain(id, "A run", 300))


def again(site: Site, id: Any, other_seed: bool = False) -> Job:
    """The same recipe, and pictures, as a new run; with `other_seed` another seed."""
    with site.lock:
        seed = secrets.randbelow(1_000_000) if other_seed else None
        return repeat(site.index, plain(id, "A run", 300), seed, site.max_queue)


def rename(site: Site, id: Any, title: Any) -> Job:
    return site.index.rename(plain(id, "A run", 300), plain(title, "A title", 100_000))


def trash(site: Site, id: Any) -> str:
    """Returns where the run's folder is now."""
    return plainly(str(site.index.trash(plain(id, "A run", 300))))


def result(site: Site, id: Any) -> dict[str, Any]:
    """A run that is done: its job, what is known of the mesh, and the address of every file it offers."""
    folder = site.index.folder(plain(id, "A run", 300))
    job = site.index.get(folder.name)
    if job.state != state.DONE:
        why = f" ({job.reason})" if job.reason else ""
        raise UsageError(f"The run {folder.name} is {job.state}{why}; only finished runs have a result.")
    files = {name: f"/run/{quote(folder.name)}/{name}" for name in downloads(folder)}
    return told(job) | {"mesh": facts(folder), "files": files}
