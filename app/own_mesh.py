"""A mesh of one's own as what a run starts from: read, kept in the run's folder, placed in the unit sphere.

`start/` holds a copy of the file, for people, and start/mesh.safetensors, what was read of it: a run is resumed and
repeated from the latter, wherever the file and its textures have gone.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from app.errors import UsageError, disk_errors
from app.export.mesh_read import MeshFile, read_mesh, with_area
from app.recipes import Recipe
from app.run.folder import Run, atomic, create_run
from guidance.tensors import read_tensors
from renderers.distance import signed_distance

RADIUS = 0.95  # of the placed mesh, in the unit sphere: what grows around it has room
READ = "mesh.safetensors"
_TENSORS = ("vertices", "faces", "normals", "tint", "texture")


def prepare(recipe: Recipe, out: Path | None) -> Run:
    """A run folder with the mesh file `recipe.init` in it. Nothing is written where it is refused (UsageError)."""
    path = Path(recipe.init)
    mesh = with_area(read_mesh(path), path)
    if not recipe.paint:
        solid(placed(mesh), recipe)
    run = create_run(recipe, out, path.stem)
    with disk_errors(run.folder):
        store(run, mesh, path)
    return run


def store(run: Run, mesh: MeshFile, path: Path) -> None:
    """Write start/: a copy of the file, and what was read of it."""
    run.start.mkdir()
    shutil.copyfile(path, run.start / f"original{path.suffix.lower()}")
    tensors = {name: getattr(mesh, name) for name in _TENSORS}
    tensors |= {f"picture{i}": p for i, p in enumerate(mesh.textures)}
    if mesh.uv is not None:
        tensors["uv"] = mesh.uv
    more = {"coloured": str(int(mesh.coloured)), "notes": json.dumps(mesh.notes), "file": ascii(path.name)}
    with atomic(run.start / READ) as draft:
        save_file({k: v.contiguous() for k, v in tensors.items()}, draft, metadata=more)


def load(run: Run) -> MeshFile:
    """What `store` wrote. UsageError where it is missing or damaged."""
    path = run.start / READ
    try:
        tensors, more = read_tensors(path)
        pictures = tuple(tensors[f"picture{i}"] for i in range(sum(k.startswith("picture") for k in tensors)))
        own: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
        return MeshFile(
            **own,
            uv=tensors.get("uv"),
            textures=pictures,
            coloured=more["coloured"] == "1",
            notes=tuple(json.loads(more["notes"])),
        )
    except Exception as e:
        raise UsageError(f"{path}, the mesh that the run starts from, is missing or damaged; start a new run.") from e


@dataclass(frozen=True)
class Placed:
    """A mesh file centred by its bounding box, its farthest vertex at RADIUS: file = vertices / scale + centre.

    mesh: the file. vertices (V, 3). welded (W, 3), faces (F, 3): the same with vertices of one position as one;
    weld (V,) int64 leads from vertices to welded.
    """

    mesh: MeshFile
    vertices: Tensor
    centre: Tensor
    scale: float
    welded: Tensor
    faces: Tensor
    weld: Tensor

    def back(self, vertices: Tensor) -> Tensor:
        """Positions (N, 3) at the file's own place and scale."""
        return (vertices.detach().cpu().double() / self.scale + self.centre).float()


def placed(mesh: MeshFile, radius: float = RADIUS) -> Placed:
    """`mesh` in the unit sphere."""
    exact = mesh.vertices.double()
    used = exact[mesh.faces.long().unique()]
    centre = (used.amax(0) + used.amin(0)) / 2
    scale = radius / float((used - centre).norm(dim=1).max())
    vertices = ((exact - centre) * scale).float()
    _, first, inverse = np.unique(mesh.vertices.numpy(), axis=0, return_index=True, return_inverse=True)
    weld = torch.from_numpy(inverse.reshape(-1).astype(np.int64))
    faces = weld[mesh.faces.long()].int()
    return Placed(mesh, vertices, centre, scale, vertices[torch.from_numpy(first)], faces, weld)


def solid(own: Placed, recipe: Recipe) -> None:
    """UsageError for a mesh that encloses nothing on the field's grid: it is what a field cannot start from."""
    if float(signed_distance(own.welded, own.faces, recipe.field.resolution).max()) <= 0:
        raise UsageError(
            f"{recipe.init} encloses no space that a field could grow from; close its holes, turn its faces outwards, "
            "or paint it with `polymode texture`."
        )


def dense(own: Placed, cell: float) -> tuple[Tensor, Tensor, Tensor]:
    """(vertices (P, 3), faces (Q, 3), colours (P, 3)) of the surface, cut until no edge is longer than a `cell`: the
    vertices of a low-poly mesh are too few to say where its colours are. On the CPU."""
    from trimesh.remesh import subdivide_to_size

    vertices, faces = own.vertices.cpu().double().numpy(), own.mesh.faces.numpy()
    points, cut, face = subdivide_to_size(vertices, faces, cell, max_iter=12, return_index=True)  # pyright: ignore
    corners, owner = cut.reshape(-1), np.repeat(face, 3)
    used, first, inverse = np.unique(corners, return_index=True, return_inverse=True)
    at, of = points[used], vertices[faces[owner[first]]]
    weights = barycentric(at, of)
    colors = own.mesh.color(torch.from_numpy(owner[first]), torch.from_numpy(weights).float())
    return torch.from_numpy(at).float(), torch.from_numpy(inverse.reshape(-1, 3).astype(np.int32)), colors


def barycentric(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(N, 3) weights of points (N, 3) on triangles (N, 3, 3); thirds where a triangle has no area."""
    a, b, c = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0], points - triangles[:, 0]
    aa, ab, bb, ca, cb = ((x * y).sum(1) for x, y in ((a, a), (a, b), (b, b), (c, a), (c, b)))
    determinant = aa * bb - ab * ab
    flat = determinant <= 1e-24
    safe = np.where(flat, 1, determinant)
    u, v = (bb * ca - ab * cb) / safe, (aa * cb - ab * ca) / safe
    weights = np.stack([1 - u - v, u, v], 1).clip(0, 1)
    weights[flat] = 1 / 3
    return weights / weights.sum(1, keepdims=True)
