"""One UV atlas for a mesh, by xatlas in a process of its own, or by box projection where that fails.

xatlas can run for minutes, or crash, on meshes it does not like, and it cannot be interrupted; here it gets a face
budget and a time limit, and whatever happens to it becomes one sentence, and the reason why box projection was taken.
"""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from app.export.overlap import overlapping

FACE_BUDGET = 60_000
SMOOTHING = 1  # Laplacian half-steps before charts are cut; see xatlas_worker
TIME_LIMIT = 60.0
# the root comes last on sys.path, and -P keeps the current folder off it: no module here can shadow a library's
_WORKER = "import sys; sys.path.append(sys.argv[1]); from app.export.xatlas_worker import run; run()"
_ROOT = Path(__file__).parents[2]


class UnwrapError(RuntimeError):
    """The mesh could not be unwrapped; the message is one sentence for the user."""


@dataclass(frozen=True)
class Unwrapped:
    """A mesh split along its seams, with one atlas.

    vertices (V', 3) float32: positions, repeated where a vertex lies on a seam.
    faces    (F, 3) int32: the input's faces in the input's order and winding, into `vertices`.
    uv       (V', 2) float32 in [0, 1]: glTF's, (0, 0) is the top left corner of the picture.
    vmapping (V',) int64: the input vertex of each vertex.
    charts   number of charts.
    how      what cut it: "xatlas", "box" projection, or the mesh's "own" coordinates.
    reason   why not xatlas: one sentence, or nothing.
    """

    vertices: Tensor
    faces: Tensor
    uv: Tensor
    vmapping: Tensor
    charts: int
    how: Literal["xatlas", "box", "own"] = "xatlas"
    reason: str = ""


def check_mesh(vertices: Tensor, faces: Tensor) -> None:
    """ValueError, one sentence, unless `vertices` (V, 3) and `faces` (F, 3) are a finite, non-empty, valid mesh."""
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        shapes = f"{tuple(vertices.shape)} and {tuple(faces.shape)}"
        raise ValueError(f"A mesh needs (V, 3) vertices and (F, 3) faces, not {shapes}.")
    if len(vertices) == 0 or len(faces) == 0:
        raise ValueError("The mesh is empty: there is no surface to export.")
    if not bool(torch.isfinite(vertices).all()):
        raise ValueError("The mesh has vertices that are not finite numbers and cannot be exported.")
    if int(faces.min()) < 0 or int(faces.max()) >= len(vertices):
        raise ValueError(f"The mesh has faces that point outside its {len(vertices)} vertices.")


def no_area(vertices: Tensor, faces: Tensor) -> bool:
    """Whether all faces are lines or points."""
    a, b, c = vertices[faces.long()].double().unbind(1)
    return float(torch.linalg.cross(b - a, c - a).abs().max()) == 0


def unwrap(
    vertices: Tensor,
    faces: Tensor,
    atlas_size: int = 1024,
    padding: int = 4,
    face_budget: int = FACE_BUDGET,
    time_limit: float = TIME_LIMIT,
) -> Unwrapped:
    """Cut a mesh into charts and pack them into one square atlas without overlaps.

    vertices (V, 3), faces (F, 3); `atlas_size` texels a side, `padding` texels between charts, `time_limit` in
    seconds. The result is on the input's device. ValueError for an empty or non-finite mesh; UnwrapError where the
    mesh has more faces than `face_budget`, or xatlas takes too long, crashes, or cannot fit the charts.
    """
    check_mesh(vertices, faces)
    if len(faces) > face_budget:
        raise UnwrapError(
            f"The mesh has {len(faces)} faces and can be unwrapped up to {face_budget}: simplify it first."
        )
    if no_area(vertices, faces):
        raise UnwrapError("The mesh has no area and cannot be unwrapped.")
    request = io.BytesIO()
    np.savez(
        request,
        vertices=vertices.detach().cpu().numpy().astype(np.float32),
        faces=faces.cpu().numpy().astype(np.uint32),
        size=atlas_size,
        padding=padding,
        smoothing=SMOOTHING,
    )
    command = [sys.executable, "-P", "-c", _WORKER, str(_ROOT)]
    try:
        done = subprocess.run(command, input=request.getvalue(), capture_output=True, timeout=time_limit, check=False)
    except subprocess.TimeoutExpired:
        raise UnwrapError(
            f"xatlas did not unwrap {len(faces)} faces in {time_limit:g} s: simplify the mesh or raise the limit."
        ) from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"it ended with code {done.returncode}"
        raise UnwrapError(f"xatlas could not unwrap the mesh of {len(faces)} faces: {reason}.")
    reply = np.load(io.BytesIO(done.stdout))
    vmapping = torch.from_numpy(reply["vmapping"].astype(np.int64)).to(vertices.device)
    return Unwrapped(
        vertices=vertices.detach().float()[vmapping],
        faces=torch.from_numpy(reply["faces"].astype(np.int32)).to(vertices.device),
        uv=torch.from_numpy(reply["uv"].astype(np.float32)).to(vertices.device),
        vmapping=vmapping,
        charts=int(reply["charts"]),
    )


def box_unwrap(
    vertices: Tensor, faces: Tensor, atlas_size: int = 1024, padding: int = 4, reason: str = ""
) -> Unwrapped:
    """The same by box projection (app/export/box.py), which takes any mesh. ValueError for an empty or non-finite
    mesh."""
    from app.export.box import box_atlas

    check_mesh(vertices, faces)
    found = box_atlas(vertices.detach().cpu().numpy(), faces.cpu().numpy().astype(np.int64), atlas_size, padding)
    vmapping = torch.from_numpy(found.vmapping).to(vertices.device)
    if not found.checked:
        reason = f"{reason} Charts may overlap: too many faces lie in one place to look.".strip()
    return Unwrapped(
        vertices=vertices.detach().float()[vmapping],
        faces=torch.from_numpy(found.faces.astype(np.int32)).to(vertices.device),
        uv=torch.from_numpy(found.uv.astype(np.float32)).to(vertices.device),
        vmapping=vmapping,
        charts=found.charts,
        how="box",
        reason=reason,
    )


def make_atlas(
    vertices: Tensor,
    faces: Tensor,
    atlas_size: int = 1024,
    padding: int = 4,
    face_budget: int = FACE_BUDGET,
    time_limit: float = TIME_LIMIT,
    uv: Tensor | None = None,
) -> Unwrapped:
    """The mesh's own coordinates `uv` (V, 2) where they will do; else `unwrap`, or box projection where that fails:
    `how` and `reason` of the result say so, for the run's notes. Vertices that are split in the input (a hard edge)
    are joined to be unwrapped, and split again. ValueError for an empty or non-finite mesh."""
    check_mesh(vertices, faces)
    if no_area(vertices, faces):
        raise ValueError("The mesh has no area and cannot be unwrapped.")
    if uv is not None and (own := own_atlas(vertices.cpu(), faces.cpu(), uv.cpu(), atlas_size)) is not None:
        tensors = {n: getattr(own, n).to(vertices.device) for n in ("vertices", "faces", "uv", "vmapping")}
        return dataclasses.replace(own, **tensors)
    points, first, inverse = np.unique(vertices.detach().cpu().numpy(), axis=0, return_index=True, return_inverse=True)
    split = len(points) < len(vertices)
    weld = torch.from_numpy(inverse.reshape(-1)).to(vertices.device)
    welded = (vertices[torch.from_numpy(first)], weld[faces.long()].int()) if split else (vertices, faces)
    try:
        found = unwrap(*welded, atlas_size, padding, face_budget, time_limit)
    except UnwrapError as e:
        found = box_unwrap(*welded, atlas_size, padding, str(e))
    return split_as(found, vertices, faces) if split else found


def split_as(welded: Unwrapped, vertices: Tensor, faces: Tensor) -> Unwrapped:
    """The atlas of a mesh whose vertices were joined, for the same faces (F, 3) into `vertices` (V, 3) as before."""
    corners = faces.reshape(-1).long()
    key = welded.faces.reshape(-1).long() * len(vertices) + corners
    unique, inverse = key.unique(return_inverse=True)
    which = unique % len(vertices)
    return dataclasses.replace(
        welded,
        vertices=vertices.detach().float()[which],
        faces=inverse.reshape(-1, 3).int(),
        uv=welded.uv[unique // len(vertices)],
        vmapping=which,
    )


def own_atlas(vertices: Tensor, faces: Tensor, uv: Tensor, atlas_size: int = 1024) -> Unwrapped | None:
    """A mesh with the coordinates (V, 2) that it came with, or None where they cannot hold a texture of their own:
    outside [0, 1], overlapping, or without area for more than a hundredth of the surface."""
    check_mesh(vertices, faces)
    if not bool(torch.isfinite(uv).all()):
        return None
    used = faces.long()
    if float(uv[used].min()) < -1e-4 or float(uv[used].max()) > 1 + 1e-4:
        return None
    flat, p = uv[used].double(), vertices[used].double()
    (a, b), c = (flat[:, 1:] - flat[:, :1]).unbind(1), torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    surface, texels = c.norm(dim=1) / 2, (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs() / 2 * atlas_size**2
    if float(surface[texels < 1e-3].sum()) > 0.01 * float(surface.sum()):
        return None
    found = overlapping(flat.numpy() * atlas_size)
    if found is None or len(found):
        return None
    every = torch.arange(len(vertices))
    charts = chart_count(faces, len(vertices))
    return Unwrapped(vertices.detach().float(), faces.int(), uv.float().clamp(0, 1), every, charts, "own")


def chart_count(faces: Tensor, vertices: int) -> int:
    """How many charts: parts that are joined by split vertices."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b, c = faces.cpu().numpy().T
    links = coo_matrix((np.ones(2 * len(a), np.int8), (np.r_[a, b], np.r_[b, c])), shape=(vertices, vertices))
    return len(np.unique(connected_components(links, directed=False)[1][a]))
