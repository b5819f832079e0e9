"""Anybody's mesh file: its surface, its colours, its texture coordinates.

Positions come in glTF's axes, Y up, at the file's own place and scale. Formats that have Z up by custom (STL, 3MF,
PLY, OFF) are turned once, (x, y, z) -> (x, z, -y), as app/export's writers turn back. Colours are sRGB-encoded here;
glTF's factors and vertex colours are linear in the file.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from app.errors import UsageError
from app.export.mesh_files import START, Limits, check_file
from app.export.preview import sample_texture, to_linear, to_srgb
from app.text import shown

TIME_LIMIT = 60.0  # seconds
MEMORY_LIMIT = 8 << 30  # bytes of address space
_WORKER = Path(__file__).with_name("read_worker.py")


@dataclass(frozen=True)
class MeshFile:
    """All surfaces of a file as one mesh; tensors on the CPU.

    vertices (V, 3) float32, as split in the file. faces (F, 3) int32. normals (V, 3) float32 unit: the file's own, or
    computed from its faces. tint (V, 3): the colour a vertex has beside its texture, sRGB in [0, 1]. coloured: whether
    the file says any colour at all (tint is a light grey where not). uv (V, 2): (0, 0) the texture's top left corner;
    None where a part has none. textures: pictures (H, W, 3) uint8, sRGB. texture (F,) int64: which of them a face has,
    -1 for none. by_vertex: the file has colours by vertex or face. unit: metres. notes: what was left out, in words.
    """

    vertices: Tensor
    faces: Tensor
    normals: Tensor
    tint: Tensor
    coloured: bool
    uv: Tensor | None
    textures: tuple[Tensor, ...]
    texture: Tensor
    notes: tuple[str, ...] = field(default=())
    by_vertex: bool = False
    unit: float = 1.0

    def color(self, face: Tensor, weights: Tensor) -> Tensor:
        """sRGB base colour (N, 3) at points on faces `face` (N,) int64, with barycentric `weights` (N, 3)."""
        corners = self.faces[face].long()
        tint = (self.tint[corners] * weights[..., None]).sum(1)
        if self.uv is None or not self.textures:
            return tint
        uv = (self.uv[corners] * weights[..., None]).sum(1)
        uv = torch.where((uv < 0) | (uv > 1), uv - uv.floor(), uv)  # textures repeat
        out, which = to_linear(tint), self.texture[face]
        for i, picture in enumerate(self.textures):
            mine = (which == i).nonzero()[:, 0]
            if len(mine):
                levels = sample_texture(to_linear(picture.permute(2, 0, 1) / 255), uv[mine])
                out[mine] = out[mine] * levels
        return to_srgb(out.clamp(0, 1))

    def vertex_colors(self) -> Tensor:
        """(V, 3) sRGB: the colour at each vertex, of one of its faces; the tint of a vertex without faces."""
        out = self.tint.clone()
        corner = torch.eye(3).repeat(len(self.faces), 1)
        face = torch.arange(len(self.faces)).repeat_interleave(3)
        out[self.faces.reshape(-1).long()] = self.color(face, corner)
        return out


def read_mesh(path: Path, limits: Limits = START, time_limit: float = TIME_LIMIT) -> MeshFile:
    """Read a mesh file, in a process that is ended after `time_limit` seconds. UsageError, one sentence, for
    what is none: missing, of another kind, damaged, empty, too large, with numbers that are not finite."""
    check_file(path, limits)
    whole = os.fspath(path.absolute())
    command = [sys.executable, "-P", str(_WORKER), whole, str(limits.faces), str(MEMORY_LIMIT)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=time_limit, check=False, env=environment)
    except subprocess.TimeoutExpired:
        raise UsageError(f"{path} was not read within {time_limit:g} s; simplify it first.") from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "surrogateescape").strip().splitlines()
        said = lines[-1] if done.returncode == 3 and lines else f"{path} crashes its reader; repair it first."
        raise UsageError(said.replace(whole, shown(str(path), 200)))
    with np.load(io.BytesIO(done.stdout)) as found:
        return mesh_file(dict(found), path)


def read_here(path: Path, limits: Limits = START) -> MeshFile:
    """The same in this process, which a bad file may end: for many files, a process each would take seconds."""
    from app.export.read_worker import read

    check_file(path, limits)
    try:
        return mesh_file(read(path, limits.faces), path)
    except ValueError as e:
        raise UsageError(str(e)) from e


def mesh_file(found: Mapping[str, NDArray[Any]], path: Path) -> MeshFile:
    """The worker's arrays as tensors. UsageError for positions beyond single precision."""
    vertices = torch.from_numpy(found["vertices"].astype(np.float32))
    if not bool(torch.isfinite(vertices).all()):
        raise UsageError(f"{shown(str(path), 200)} has positions too large for single precision; scale it down first.")
    pictures = [found[f"picture{i}"] for i in range(sum(k.startswith("picture") for k in found))]
    normals = torch.from_numpy(np.nan_to_num(found["normals"]).astype(np.float32))
    return MeshFile(
        vertices=vertices,
        faces=torch.from_numpy(found["faces"].astype(np.int32)),
        normals=F.normalize(normals, dim=1),
        tint=torch.from_numpy(found["tint"].astype(np.float32)),
        coloured=bool(found["coloured"]),
        uv=torch.from_numpy(found["uv"].astype(np.float32)) if "uv" in found else None,
        textures=tuple(torch.from_numpy(p.copy()) for p in pictures),
        texture=torch.from_numpy(found["texture"].astype(np.int64)),
        notes=tuple(map(str, found["notes"])),
        by_vertex=bool(found["by_vertex"]),
        unit=float(found["unit"]),
    )


def with_area(mesh: MeshFile, path: Path) -> MeshFile:
    """The mesh. UsageError for one without extent or area, on which nothing can be painted or grown."""
    used, named = mesh.vertices[mesh.faces.long()], shown(str(path), 200)
    if float((used.amax((0, 1)) - used.amin((0, 1))).max()) <= 0:
        raise UsageError(f"{named} has no extent: all its vertices are in one place; repair the mesh.")
    if float(torch.linalg.cross(used[:, 1] - used[:, 0], used[:, 2] - used[:, 0]).abs().max()) <= 0:
        raise UsageError(f"{named} has no area: all its faces are lines or points; repair the mesh.")
    return mesh
