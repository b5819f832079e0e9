"""One UV atlas for a mesh, by xatlas, in a process of its own.

xatlas can run for minutes, or crash, on meshes it does not like, and it cannot be interrupted; here it gets a face
budget and a time limit, and whatever happens to it becomes one sentence.
"""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FACE_BUDGET = 60_000
SMOOTHING = 1  # Laplacian half-steps before charts are cut; see xatlas_worker
_WORKER = Path(__file__).with_name("xatlas_worker.py")


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
    """

    vertices: Tensor
    faces: Tensor
    uv: Tensor
    vmapping: Tensor
    charts: int


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


def unwrap(
    vertices: Tensor,
    faces: Tensor,
    atlas_size: int = 1024,
    padding: int = 4,
    face_budget: int = FACE_BUDGET,
    time_limit: float = 60.0,
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
    if float((vertices[faces[:, 0].long()] - vertices[faces[:, 1].long()]).abs().max()) == 0:
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
    # -P: the worker's folder stays off sys.path, so no module here can shadow a library's
    command = [sys.executable, "-P", str(_WORKER)]
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
