"""A shape with its atlas: unwrapped, its base colour and normal map baked, and put to its place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from app.candidates import Own, Shape
from app.errors import CollapseError
from app.export.bake import bake
from app.export.glb import TexturedMesh, textured
from app.export.normals import bake_normals, tangents
from app.export.unwrap import Unwrapped, make_atlas
from app.run.work import Work
from renderers.raster import make_context


@dataclass(frozen=True)
class Surface:
    """What is written. atlas: "charts", their number, and "unwrap": what cut them, for metadata.json. sphere (V, 3):
    the vertices in the unit sphere, where pictures are taken, of a mesh that stands elsewhere; else None."""

    mesh: TexturedMesh
    atlas: dict[str, Any]
    sphere: Tensor | None

    def seen(self, mesh: TexturedMesh) -> TexturedMesh:
        """The mesh as it was read back, in the unit sphere."""
        return mesh if self.sphere is None else dataclasses.replace(mesh, vertices=self.sphere)


def surface(job: Work, shape: Shape) -> Surface:
    """`shape`, unwrapped and baked. A note says where xatlas failed. CollapseError where there is nothing to bake."""
    recipe, note = job.recipe.texture, job.progress.note
    with job.clock.part("unwrap"):
        try:
            uv = None if shape.own is None else shape.own.uv
            unwrapped = make_atlas(shape.vertices, shape.faces, recipe.size, uv=uv)
        except ValueError as e:
            raise CollapseError(str(e)) from e
    if unwrapped.reason:
        note(f"Unwrapped by box projection, with more seams: {unwrapped.reason}")
    with job.clock.part("bake"):
        context = make_context(shape.vertices.device)
        mesh = textured(unwrapped, bake(context, shape.texture, unwrapped, recipe.size, shape.attributes))
        if recipe.normals and shape.dense is None:
            note("No normal map: no finer mesh was made than the one that is written.")
        elif shape.dense is not None and recipe.normals:
            mesh = with_normal_map(mesh, unwrapped, shape.dense, recipe.size)
    atlas = {"charts": unwrapped.charts, "unwrap": unwrapped.how}
    if shape.own is None:
        return Surface(mesh, atlas, None)
    return Surface(moved(mesh, unwrapped, shape.own), atlas, mesh.vertices)


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
