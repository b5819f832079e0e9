"""The last stage of every run: unwrap, bake, write, read back, and picture what was read."""

from __future__ import annotations

from typing import Any

from app.candidates import Shape
from app.errors import MissingError
from app.export.glb import read_glb, write_glb
from app.export.video import VideoError, contact_sheet, turntable
from app.run.work import Work
from app.stages.surface import surface
from app.text import shown
from renderers.raster import RasterizeCpuContext


def export(job: Work, shape: Shape) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Unwrap, bake, write mesh.glb, read it back, and picture what was read. Returns how the atlas was made and its
    number of charts, and how well each picture is reproduced."""
    recipe, run, progress, clock = job.recipe, job.run, job.progress, job.clock
    reproduced: list[dict[str, float]] = []
    job.pause("the texture")
    bar = progress.stage("texture", 4)
    made = surface(job, shape)
    bar.update(2)
    with clock.part("bake"):
        extras = {
            "prompt": recipe.prompt,
            "seed": recipe.seed,
            "method": recipe.method,
            "prior": shown(recipe.prior, 1000),
        }
        glb = run.folder / "mesh.glb"
        write_glb(glb, made.mesh, extras=extras)
    bar.update(3)
    job.pause("the pictures")
    with clock.part("pictures"):
        asset = made.seen(read_glb(glb))
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
    return made.atlas, reproduced
