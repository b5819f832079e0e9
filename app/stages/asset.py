"""The last stage of every run: unwrap, bake, write, read back, and picture what was read."""

from __future__ import annotations

from app.candidates import Shape
from app.errors import CollapseError, MissingError
from app.export.bake import bake
from app.export.glb import read_glb, textured, write_glb
from app.export.unwrap import make_atlas
from app.export.video import VideoError, contact_sheet, turntable
from app.run.work import Work
from app.text import shown
from renderers.raster import RasterizeCpuContext, make_context


def export(job: Work, shape: Shape) -> tuple[int, list[dict[str, float]]]:
    """Unwrap, bake, write mesh.glb, read it back, and picture what was read. Returns the number of charts, and how
    well each picture is reproduced."""
    recipe, run, progress, clock = job.recipe, job.run, job.progress, job.clock
    reproduced: list[dict[str, float]] = []
    job.pause("the texture")
    bar = progress.stage("texture", 4)
    context = make_context(shape.vertices.device)
    with clock.part("unwrap"):
        try:
            unwrapped = make_atlas(shape.vertices, shape.faces, recipe.texture.size)
        except ValueError as e:
            raise CollapseError(str(e)) from e
    if unwrapped.reason:
        progress.note(f"Unwrapped by box projection, with more seams: {unwrapped.reason}")
    bar.update(1)
    with clock.part("bake"):
        texture = bake(context, shape.texture, unwrapped, recipe.texture.size, shape.attributes)
        bar.update(2)
        extras = {
            "prompt": recipe.prompt,
            "seed": recipe.seed,
            "method": recipe.method,
            "prior": shown(recipe.prior, 1000),
        }
        glb = run.folder / "mesh.glb"
        write_glb(glb, textured(unwrapped, texture), extras=extras)
    bar.update(3)
    job.pause("the pictures")
    with clock.part("pictures"):
        asset = read_glb(glb)
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
    return unwrapped.charts, reproduced
