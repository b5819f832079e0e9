"""The last stage of every run: unwrap, bake, write, read back; other formats, a report, and pictures of what was
read."""

from __future__ import annotations

import dataclasses
from typing import Any

from app.candidates import Shape
from app.errors import CollapseError, MissingError
from app.export.glb import TexturedMesh, read_glb, write_glb
from app.export.lowpoly import low_poly, surface_colors
from app.export.size import parse_formats, parse_size
from app.export.video import VideoError, contact_sheet, turntable
from app.recipes import Recipe
from app.run.folder import REPORT
from app.run.work import Work
from app.stages.surface import Surface, surface
from app.text import shown
from renderers.raster import RasterizeCpuContext


def export(job: Work, shape: Shape) -> tuple[dict[str, Any], list[dict[str, float]], dict[str, Any]]:
    """Finish, write mesh.glb, read it back, measure, convert and picture what was read. Returns what metadata.json
    says of the mesh, how well each picture is reproduced, and the report."""
    recipe, run, progress, clock = job.recipe, job.run, job.progress, job.clock
    reproduced: list[dict[str, float]] = []
    job.pause("the texture")
    bar = progress.stage("texture", 4)
    made = finished(job, shape)
    bar.update(2)
    glb = run.folder / "mesh.glb"
    write_glb(glb, made.mesh, extras=origin(recipe))
    written = read_glb(glb)
    with clock.part("files"):
        measured, failed = others(job, written)
    bar.update(3)
    job.pause("the pictures")
    with clock.part("pictures"):
        asset = made.seen(written)
        picture_context = RasterizeCpuContext()
        contact_sheet(picture_context, asset, run.folder / "contact_sheet.png")
        try:
            turntable(picture_context, asset, run.folder / "turntable.mp4")
        except VideoError as e:
            raise MissingError(f"{e} The mesh is in {glb}; reinstall imageio-ffmpeg for the turntable.") from e
        if job.references is not None and shape.light is not None:
            from app.pictures.report import reproduction

            sheet = run.pictures / "compare.png"
            reproduced = reproduction(picture_context, asset, job.references, shape.light, sheet)
    bar.update(4)
    bar.close()
    if failed:
        raise CollapseError(f"{failed} The mesh is in {glb}.")
    return made.atlas, reproduced, measured


def finished(job: Work, shape: Shape) -> Surface:
    """The shape with its finish, and what metadata.json says of it."""
    if job.recipe.finish.kind == "lowpoly":
        with job.clock.part("finish"):
            return lowpoly(shape, job.recipe)
    made = surface(job, shape)
    said = {"vertices": len(shape.vertices), "faces": len(shape.faces)}
    return dataclasses.replace(made, atlas=said | made.atlas)


def lowpoly(shape: Shape, recipe: Recipe) -> Surface:
    """Few flat faces, each of one colour (app/export/lowpoly.py)."""
    r = recipe.finish
    _, colors = surface_colors(shape.vertices, shape.faces, shape.texture, shape.attributes)
    faces = min(r.faces, recipe.mesh.faces)
    made = low_poly(shape.vertices, shape.faces, colors, faces, r.colors, r.patch)
    about = {"vertices": len(made.mesh.vertices), "faces": len(made.mesh.faces), "colors": len(made.colors)}
    return Surface(made.mesh, about, None)


def origin(recipe: Recipe) -> dict[str, Any]:
    """What a GLB says of its origin."""
    said = {"prompt": recipe.prompt, "seed": recipe.seed, "method": recipe.method}
    return said | {"prior": shown(recipe.prior, 1000)}


def others(job: Work, asset: TexturedMesh) -> tuple[dict[str, Any], str]:
    """The report beside mesh.glb, and the other formats that the recipe asks for. (the report, why a format could not
    be written, or "")."""
    from app.export.formats import write
    from app.export.report import as_json, report

    asked, size, failed = job.recipe.export, parse_size(job.recipe.export.size), ""
    measured = report(asset, size)
    for words in measured.warnings:
        job.progress.say(words)
    job.run.write_json(REPORT, as_json(measured))
    for kind in parse_formats(asked.format):
        if kind == "glb":
            continue
        try:
            took = write(job.run.folder / f"mesh.{kind}", asset, size)
        except ValueError as e:
            failed = f"mesh.{kind} cannot be written: {e}"
            continue
        if took:
            job.progress.note(f"mesh.{kind}: {took}")
    return as_json(measured), failed
