"""Prompt to asset, the whole story on one page: field -> mesh -> refinement (distillation), or frames -> hull -> fit
-> projected colour (direct); then texture -> GLB -> pictures of the re-read file."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from app.candidates import Candidate, Fused, Shape, candidate_seeds, choose, fusion_residual, own_score
from app.errors import CollapseError, UsageError, UserError, disk_errors
from app.export.preview import save_png
from app.jobs.state import cancel_asked
from app.methods import DIRECT
from app.models import load_prior, unreadable, weights_folder
from app.recipes import Recipe
from app.run.folder import Run, generators
from app.run.live import Look
from app.run.progress import Progress
from app.run.signals import stop_signals
from app.run.work import Clock, Work, choose_device, metadata, plan
from app.stages.asset import export
from app.stages.distil import distil
from app.stages.fuse import fuse_step, hull_mesh
from app.stages.mirror import mirror
from app.stages.project import make_projector, paint, vertex_colors
from app.stages.reference import light_of, unlit, with_palette
from app.stages.rounds import Now, finish, move, rounds_of
from app.stages.sample import direct_cameras, picture_views, sample
from app.text import shown
from guidance.prior import UnfitPicture
from guidance.priors.embedded import EmbeddedPrior
from guidance.priors.known import Familiarity, familiarity, load_known
from renderers.cameras import Cameras, orbit
from renderers.frames import Rendered
from renderers.mesh import vertex_normals

if TYPE_CHECKING:
    from app.pictures.intake import References

LIVE = 64  # pixels of a live turntable, before it is enlarged


def insist(signum: int, again: bool) -> None:
    """A second Ctrl-C interrupts at once."""
    if again and signum == signal.SIGINT:
        raise KeyboardInterrupt


def generate(
    recipe: Recipe,
    run: Run,
    progress: Progress,
    clock: Clock | None = None,
    prior: EmbeddedPrior | None = None,
    live: bool = False,
) -> dict[str, Any]:
    """Run every stage that `run` has not finished, and return metadata.json's content. UserError on anything a user
    can mend. `prior`: the recipe's, if it is loaded already. `live`: a turntable beside every preview."""
    clock = clock or Clock()
    with stop_signals(insist) as interrupted:

        def stopped() -> bool:
            return interrupted() or cancel_asked(run.folder)

        try:
            try:
                with disk_errors(run.folder):
                    return _generate(recipe, run, progress, clock, stopped, prior, live)
            except UnfitPicture as e:
                raise UsageError(str(e)) from e
        except UserError as e:
            with suppress(OSError):  # a full disk is what may have ended the run
                run.event("stopped", exit_code=e.exit_code, reason=str(e))
                over = {"status": "stopped", "reason": str(e), "notes": progress.notes}
                run.write_json("metadata.json", metadata(recipe, clock, None, []) | over)
            raise


def _generate(
    recipe: Recipe,
    run: Run,
    progress: Progress,
    clock: Clock,
    stopped: Callable[[], bool],
    prior: EmbeddedPrior | None,
    live: bool,
) -> dict[str, Any]:
    device = choose_device(recipe.device)
    progress.plan = plan(recipe)
    run.event("start", prompt=recipe.prompt, preset=recipe.preset, seed=recipe.seed, device=str(device))
    with clock.part("load"):
        prior = prior or load_prior(recipe.prior, device, recipe.precision)
    wanted = repr(recipe.prompt) if recipe.prompt else f"{recipe.picture.count} picture(s)"
    progress.say(f"{wanted} · {recipe.method} · {recipe.preset} · prior {prior.name} · seed {recipe.seed} · {device}")
    known = hearing(recipe, run, prior, progress)
    job = Work(recipe, run, progress, clock, stopped, prior, device, live)
    if recipe.picture.count:
        job.references = references(job)
    candidates = [candidate(job, k, seed) for k, seed in enumerate(candidate_seeds(recipe.seed, recipe.best_of))]
    best = choose(candidates)
    shape = candidates[best].shape
    assert shape is not None

    shape, symmetric = mirror(job, shape)
    about, reproduced = export(job, shape)
    result = metadata(recipe, clock, prior, job.loops) | {"status": "done", "notes": progress.notes}
    result["mesh"] = about | {"symmetry": symmetric}
    result["candidates"] = [
        {"seed": c.seed, "residual": c.residual, "score": c.score, "reason": c.reason, "kept": i == best}
        for i, c in enumerate(candidates)
    ]
    if job.references is not None:
        from app.pictures.intake import read

        rows = zip(read(run), reproduced, strict=True)
        result["pictures"] = [dataclasses.asdict(p) | r for p, r in rows]
    if known is not None:
        result["familiarity"] = dataclasses.asdict(known)
    run.write_json("metadata.json", result)
    run.event("done", seconds=round(clock.total(), 2))
    return result


def hearing(recipe: Recipe, run: Run, prior: EmbeddedPrior, progress: Progress) -> Familiarity | None:
    """Say what the prior makes of the prompt: words that it does not read, and how familiar the rest is; None where
    that is not known."""
    words = ", front view" if recipe.guide.view_words else ""  # as long as any other that are appended
    for what, text in (("prompt", recipe.prompt + words), ("negative prompt", recipe.guide.negative)):
        kept, left_out = prior.encoder.split(text)
        if left_out:
            run.event("cut", what=what, kept=kept, left_out=left_out)
            progress.note(f'The prior reads only the beginning of the {what}; left out: "{shown(left_out, 300)}".')
    folder = weights_folder(recipe.prior)
    with unreadable(folder):
        known = load_known(folder) if recipe.prompt else None
    if known is None:
        return None
    found = familiarity(known, prior.encoder, recipe.prompt)
    tell = progress.note if found.confidence is None else progress.say
    tell(found.sentence(prior.name, shown(recipe.prompt)))
    return found


def references(job: Work) -> References:
    """The run's pictures; those that nobody placed are placed by the prior first (app/pictures/place.py)."""
    from app.pictures.intake import load, read, write
    from app.pictures.place import estimate_azimuths

    size = job.prior.frame_shape[-1]
    found, posed = load(job.run, size, job.device), read(job.run)
    unknown = [k for k, p in enumerate(posed) if p.azimuth is None]
    for p in posed:
        for note in p.notes:
            job.progress.note(f"{p.source}: {note}")
    if unknown:
        with job.clock.part("place"):
            generator = generators(job.recipe.seed)["init"]
            placed = estimate_azimuths(job.prior, job.recipe.prompt, found, unknown, generator)
        posed = [
            dataclasses.replace(p, azimuth=round(math.degrees(placed.get(k, 0.0)), 1)) if k in placed else p
            for k, p in enumerate(posed)
        ]
        write(job.run, posed)
        found = load(job.run, size, job.device)
    for p in posed:
        how = ", ".join(p.estimated)
        job.progress.say(
            f"{p.source}: background {p.background}, azimuth {p.azimuth:g}°, elevation {p.elevation:g}°"
            + (f" ({how} estimated)" if how else "")
        )
    return found


def candidate(job: Work, k: int, seed: int) -> Candidate:
    """Candidate k, whole up to its texture, with its scores and thumbnail if there are several. One that collapses is
    recorded; if it is the only one, CollapseError."""
    recipe, tag = job.recipe, f"-{k}" if k else ""
    streams = generators(seed)
    try:
        if recipe.method == DIRECT:
            fused = direct(job, tag, streams)
            shape, residual = fused.shape, fused.residual
        elif recipe.init == DIRECT:
            shape, residual = distil(job, tag, seed, streams, direct(job, tag, streams)), None
        else:
            shape, residual = distil(job, tag, seed, streams), None
    except CollapseError as e:
        if recipe.best_of == 1:
            raise
        job.run.event("collapsed", candidate=k, seed=seed, reason=str(e))
        return Candidate(seed, reason=str(e))
    if recipe.best_of == 1:
        return Candidate(seed, shape, residual)
    with job.clock.part("candidates"):
        score = own_score(job.prior, recipe.prompt, shape, recipe.seed, job.told())
        pictures = shape.frames(orbit(4, math.radians(20), device=job.device), 96)
        job.run.candidates.mkdir(exist_ok=True)
        save_png(job.run.candidates / f"{k:02d}.png", [pictures[:, :3], pictures[:, 4:]])
    job.run.event("candidate", candidate=k, seed=seed, residual=residual, score=score)
    return Candidate(seed, shape, residual, score)


def direct(job: Work, tag: str, streams: dict[str, torch.Generator]) -> Fused:
    """Joint frames, fused."""
    recipe, r, pictures = job.recipe, job.recipe.direct, job.references
    cameras = direct_cameras(r, job.device, None if pictures is None else pictures.cameras)
    frames, drawn, timings = sample(
        job.run,
        f"sample{tag}",
        r,
        job.prior,
        recipe.prompt,
        cameras,
        streams["noise"],
        job.progress,
        job.stopped,
        pictures,
    )
    job.loops.append(timings)
    if pictures is None:
        shape = fuse(job, tag, frames, cameras, streams)
        return Fused(shape, fusion_residual(shape, frames, cameras), drawn)
    which = picture_views(cameras, pictures.cameras)
    light = light_of(pictures.frames, frames[which])
    target = unlit(pictures.frames, light)
    frames = with_palette(frames, target[0], recipe.picture.palette)
    frames[which, :4] = target[:, :4]
    weights = torch.ones(len(cameras), device=job.device)
    weights[which] = recipe.picture.weight_view
    shape = fuse(job, tag, frames, cameras, streams, weights / weights.mean(), unlit(pictures.fine, light))
    shape = dataclasses.replace(shape, light=light)
    return Fused(shape, fusion_residual(shape, frames, cameras), drawn, frames[which])


def fuse(
    job: Work,
    tag: str,
    frames: Tensor,
    cameras: Cameras,
    streams: dict[str, torch.Generator],
    weights: Tensor | None = None,
    fine: Tensor | None = None,
) -> Shape:
    """Frames (V, 7, S, S) -> visual hull -> fitted mesh -> projected colour. `weights` (V,) of the views; `fine`
    (K, 7, F, F): the pictures without light."""
    recipe, r = job.recipe, job.recipe.direct
    job.pause("the hull")
    with job.clock.part("hull"):
        sure = [] if job.references is None else picture_views(cameras, job.references.cameras)
        hull = hull_mesh(frames, cameras, r, recipe.mesh.keep, sure)
        vertices, faces = hull.vertices, hull.faces
    carved = {"margin": hull.margin, "outvoted": hull.outvoted, "agreement": hull.agreement}
    job.run.event("hull", vertices=len(vertices), faces=len(faces), **carved)
    vertices, faces = move(
        job,
        "fuse",
        tag,
        (vertices, faces),
        rounds_of(r, cameras.pixel(frames.shape[-1])),
        streams,
        lambda now, state, _: fuse_step(now, frames, cameras, r, weights),
        look_at,
    )
    job.pause("the texture")
    with job.clock.part("project"):
        vertices, faces = finish(vertices, faces, recipe.mesh)
        projector = make_projector(frames, cameras, vertices, faces, r.sharpness, r.level)
        if fine is not None and job.references is not None:
            over = make_projector(fine, job.references.cameras, vertices, faces, r.sharpness, r.level)
            projector = dataclasses.replace(projector, over=over)
        colors = vertex_colors(projector, vertices, faces)
        attributes = torch.cat([vertex_normals(vertices, faces), colors], 1)
        return Shape(vertices, faces, colors, lambda x: paint(projector, x), attributes)


def look_at(now: Now) -> Look:
    """A grey surface as it is when it is looked at."""

    def look(cameras: Cameras) -> Rendered:
        surface = now()
        return surface.render(cameras, LIVE, torch.full_like(surface.vertices, 0.7))

    return look
