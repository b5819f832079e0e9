"""generate, texture, reconstruct, evaluate. Their arguments are the command line's flags, of the same dataclasses."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import recipes
from app.errors import UsageError
from app.export.mesh_files import check_file
from app.recipes import INITS, PictureRecipe, Recipe, check, picture_preset, tidied
from app.settings import every_setting, with_settings

if TYPE_CHECKING:
    from app.run.folder import Run

File = str | os.PathLike[str]


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, the files in it, and what metadata.json holds (seed, versions, seconds, ...)."""

    folder: Path
    mesh: Path
    """mesh.glb: Y up, front to +Z, one texture."""
    turntable: Path
    """turntable.mp4, of the mesh as it was read back."""
    contact_sheet: Path
    """contact_sheet.png, likewise."""
    metadata: dict[str, Any]


def generate(
    prompt: str,
    *,
    preset: str = "draft",
    method: str | None = None,
    seed: int | None = None,
    init: str | None = None,
    best_of: int | None = None,
    negative: str | None = None,
    faces: int | None = None,
    texture_size: int | None = None,
    finish: str | None = None,
    symmetry: str | None = None,
    format: str | None = None,
    size: str | None = None,
    prior: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: File | None = None,
    progress: bool = False,
) -> Result:
    """A textured mesh of what `prompt` says, in a run folder of its own.

    Arguments are those of `polymode generate`; None leaves the preset's value. `settings`: any other number by its
    flag's name, {"field.steps": 100, "dsd.hold": 0.5}. `out`: a new or empty folder, or runs/PROMPT-TIME below the
    working directory. `progress`: lines or a bar on stderr.

    UsageError for what cannot run, MissingError for absent weights or packages, CollapseError where the optimisation
    died, DiskError where the disk is full, Cancelled after Ctrl-C or `polymode jobs cancel`; all are UserErrors.
    """
    named = {k: v for k, v in locals().items() if k in NAMED}
    recipe = configured(recipes.preset(preset), text(prompt), named, settings)
    check(recipe)
    return made(recipe, lambda: _new_run(recipe, out), progress)


def texture(
    mesh: File,
    prompt: str,
    *,
    preset: str = "draft",
    method: str | None = None,
    seed: int | None = None,
    negative: str | None = None,
    texture_size: int | None = None,
    format: str | None = None,
    size: str | None = None,
    prior: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: File | None = None,
    progress: bool = False,
) -> Result:
    """A mesh file of your own, painted as `prompt` says; its geometry stays. Arguments are those of `polymode
    texture`; the rest, and the errors, as in `generate`."""
    named = {k: v for k, v in locals().items() if k in NAMED}
    recipe = configured(recipes.paint_preset(preset), text(prompt), named, settings)
    recipe = dataclasses.replace(recipe, init=os.fspath(mesh), paint=True)
    check_file(Path(mesh))
    check(recipe)
    return made(recipe, lambda: _new_run(recipe, out), progress)


def reconstruct(
    pictures: File | Sequence[File],
    *,
    prompt: str = "",
    preset: str = "draft",
    background: str = "auto",
    azimuth: float | Sequence[float] = (),
    elevation: float | Sequence[float] = (),
    method: str | None = None,
    seed: int | None = None,
    best_of: int | None = None,
    negative: str | None = None,
    faces: int | None = None,
    texture_size: int | None = None,
    finish: str | None = None,
    symmetry: str | None = None,
    format: str | None = None,
    size: str | None = None,
    prior: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: File | None = None,
    progress: bool = False,
) -> Result:
    """A textured mesh of the object in a picture, or in several of them, the first of which is the front.

    Arguments are those of `polymode reconstruct`: `background` says how the object is cut out, `azimuth` and
    `elevation` where each picture was taken from (degrees; estimated if left out). The rest, and the errors, as in
    `generate`; `settings` may also have "picture.palette" and its like.
    """
    named = {k: v for k, v in locals().items() if k in NAMED}
    files = [Path(pictures)] if isinstance(pictures, str | os.PathLike) else [Path(p) for p in pictures]
    options = PictureRecipe(background=background, azimuth=degrees(azimuth), elevation=degrees(elevation))
    base = dataclasses.replace(picture_preset(preset), picture=options)
    from app.reconstruct import picture_recipe, prepare

    recipe = picture_recipe(configured(base, text(prompt), named, settings), len(files))
    return made(recipe, lambda: prepare(files, recipe, None if out is None else Path(out)), progress)


def evaluate(
    what: File,
    *,
    prompts: File | None = None,
    count: int | None = None,
    seed: int = 0,
    prior: str = "embedded",
    out: File | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure a run's folder, a folder of runs, or with "prior" the prior's own samples: ranks of the right noun,
    colours, saturation, faces on the back, and the evaluator's own ceiling; what `polymode evaluate --json` prints.

    `prompts`, `count`, `seed` and `prior` are only for "prior". `out`: a folder for results.json and a contact sheet.
    """
    from app.evaluate.command import evaluated
    from app.evaluate.options import Evaluate

    a = Evaluate(
        os.fspath(what),
        prompts=None if prompts is None else Path(prompts),
        count=count,
        out=None if out is None else Path(out),
        seed=seed,
        prior=prior,
    )
    return evaluated(a, progress)


NAMED = (
    *("method", "seed", "init", "best_of", "negative", "faces", "texture_size", "finish", "symmetry"),
    *("format", "size", "prior", "device", "precision"),
)


def text(prompt: str) -> str:
    """The prompt. UsageError for what is no text."""
    if not isinstance(prompt, str):
        raise UsageError(f"The prompt must be text, not {type(prompt).__name__}.")
    return prompt


def degrees(given: float | Sequence[float]) -> tuple[float, ...]:
    """One angle or several. UsageError for what is no number."""
    try:
        return tuple(float(a) for a in (given if isinstance(given, Sequence) else (given,)))
    except (TypeError, ValueError) as e:
        raise UsageError(f"Angles are numbers of degrees, not {given!r}.") from e


def configured(base: Recipe, prompt: str, named: Mapping[str, Any], settings: Mapping[str, Any] | None) -> Recipe:
    """`base` with the prompt and the settings that are given. UsageError for an unknown name or another type."""
    recipe = dataclasses.replace(base, prompt=prompt)
    return tidied(with_settings(recipe, {**(settings or {}), **named}, every_setting()))


def made(recipe: Recipe, new_run: Callable[[], Run], progress: bool) -> Result:
    """The run, carried out. `new_run()` makes its folder, once nothing more can be refused."""
    from app.run.progress import Progress
    from app.startup import carry_out, ready

    clock = ready(recipe, time.perf_counter())
    with clock.part("pictures_in"):
        run = new_run()
    metadata = carry_out(recipe, run, clock, Progress(quiet=not progress))
    f = run.folder
    return Result(f, f / "mesh.glb", f / "turntable.mp4", f / "contact_sheet.png", metadata)


def _new_run(recipe: Recipe, out: File | None) -> Run:
    from app.own_mesh import prepare
    from app.run.folder import create_run

    folder = None if out is None else Path(out)
    return create_run(recipe, folder) if recipe.init in INITS else prepare(recipe, folder)
