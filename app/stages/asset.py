"""The last stage of every run: unwrap, bake, write, read back, and picture what was read."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from app.candidates import Own, Shape
from app.errors import CollapseError, MissingError
from app.export.bake import bake
from app.export.glb import TexturedMesh, read_glb, textured, write_glb
from app.export.normals import bake_normals, tangents
from app.export.unwrap import Unwrapped, make_atlas
from app.export.video import VideoError, contact_sheet, turntable
from app.run.work import Work
from app.text import shown
from renderers.raster import RasterizeCpuContext, make_context


def export(job: Work, shape: Shape) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Unwrap, bake, write mesh.glb, read it back, and picture what was read. Returns how the atlas was made and its
    number of charts, and how well each picture is reproduced."""
    recipe, run, progress, clock = job.recipe, job.run, job.progress, job.clock
    reproduced: list[dict[str, float]] = []
    job.pause("the texture")
    bar = progress.stage("texture", 4)
    context = make_context(shape.vertices.device)
    with clock.part("unwrap"):
        try:
            uv = None if shape.own is None else shape.own.uv
            unwrapped = make_atlas(shape.vertices, shape.faces, recipe.texture.size, uv=uv)
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
        written = textured(unwrapped, texture)
        if recipe.texture.normals and shape.dense is None:
            progress.note("No normal map: no finer mesh was made than the one that is written.")
        elif recipe.texture.normals and shape.dense is not None:
            written = with_normal_map(written, unwrapped, shape.dense, recipe.texture.size)
        if shape.own is not None:
            written = moved(written, unwrapped, shape.own)
        write_glb(glb, written, extras=extras)
    bar.update(3)
    job.pause("the pictures")
    with clock.part("pictures"):
        asset = read_glb(glb)
        if shape.own is not None:  # pictures are taken in the unit sphere
            asset = dataclasses.replace(asset, vertices=shape.vertices.cpu()[unwrapped.vmapping.cpu()])
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
    return {"charts": unwrapped.charts, "unwrap": unwrapped.how}, reproduced


def with_normal_map(mesh: TexturedMesh, unwrapped: Unwrapped, dense: tuple[Tensor, Tensor], size: int) -> TexturedMesh:
    """`mesh` with what it lost to decimation."""
    device = unwrapped.vertices.device
    normals = mesh.normals.to(device)
    across = tangents(unwrapped.vertices, unwrapped.faces, unwrapped.uv, normals)
    picture = bake_normals(make_context(device), unwrapped, normals, across, dense, size)
    return dataclasses.replace(mesh, normal_map=picture, tangents=across.cpu())


def moved(mesh: TexturedMesh, unwrapped: Unwrapped, own: Own) -> TexturedMesh:
    """`mesh` at the place and scale of the file that it started from, with that file's normals where they are
    kept."""
    which = unwrapped.vmapping.cpu()
    mesh = dataclasses.replace(mesh, vertices=own.vertices[which])
    if own.normals is None:
        return mesh
    normals = own.normals[which].clone()
    normals[normals.norm(dim=1) < 0.5] = torch.tensor([0.0, 1.0, 0.0])
    return dataclasses.replace(mesh, normals=normals)
