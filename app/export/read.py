"""Anybody's mesh file as a TexturedMesh in our frame: Y up, front to +Z, metres.

What we wrote ourselves is read here; everything else in a process of its own (read_worker.py), with limits. Files that
are Z up by custom (STL, 3MF, PLY, OFF) are turned as the writers turn them, the other way round.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.errors import UsageError
from app.export.glb import TexturedMesh, read_chunks, read_glb
from renderers.mesh import vertex_normals

TIME_LIMIT = 60.0  # seconds
MEMORY_LIMIT = 8 << 30  # bytes of address space
Z_UP = (".stl", ".3mf", ".ply", ".off")
_WORKER = Path(__file__).with_name("read_worker.py")


def read_mesh(path: Path, time_limit: float = TIME_LIMIT) -> TexturedMesh:
    """The mesh of a file, all its parts in one; colours by texture or by vertex where it has some, light grey where
    not. UsageError, one sentence, for what is no mesh or cannot be read."""
    if not path.is_file():
        raise UsageError(f"{path} is {'no file' if path.exists() else 'not there'}; give a mesh file or a run folder.")
    if path.suffix == ".glb" and is_ours(path):
        with suppress(ValueError):  # damaged: the other reader says what is wrong
            return read_glb(path)
    command = [sys.executable, "-P", str(_WORKER), os.fspath(path.absolute()), str(MEMORY_LIMIT)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=time_limit, check=False, env=environment)
    except subprocess.TimeoutExpired:
        raise UsageError(f"{path} was not read within {time_limit:g} s; simplify it first.") from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "surrogateescape").strip().splitlines()
        said = lines[-1] if done.returncode == 3 and lines else f"{path} crashes its reader; repair it first."
        raise UsageError(said.replace(os.fspath(path.absolute()), os.fspath(path)))
    with np.load(io.BytesIO(done.stdout)) as found:
        return textured_of(dict(found), path)


def is_ours(path: Path) -> bool:
    """Whether Polymode wrote a GLB, and nobody else since."""
    try:
        document, _ = read_chunks(path)
        return str(document["asset"]["generator"]).startswith("polymode ")
    except (ValueError, KeyError, TypeError, OSError):
        return False


def textured_of(found: dict[str, np.ndarray], path: Path) -> TexturedMesh:
    """The worker's arrays, in our frame."""

    def ours(points: np.ndarray) -> Tensor:
        turned = points[:, [0, 2, 1]] * [1, 1, -1] if path.suffix.lower() in Z_UP else points
        return torch.from_numpy(turned.astype(np.float32))

    vertices, faces = ours(found["vertices"]), torch.from_numpy(found["faces"].astype(np.int32))
    if not bool(torch.isfinite(vertices).all()):
        raise UsageError(f"{path} has positions too large for single precision; scale it down first.")
    normals = ours(found["normals"])
    odd = ~((normals.norm(dim=1) - 1).abs() < 0.01)
    normals[odd] = vertex_normals(vertices, faces)[odd]
    normals[~(normals.norm(dim=1) > 0.5)] = torch.tensor([0.0, 1.0, 0.0])
    count = len(vertices)
    if "colors" in found:
        uv, texture = torch.full((count, 2), 0.5), torch.full((1, 1, 3), 255, dtype=torch.uint8)
        colors = torch.from_numpy(found["colors"].copy())
        return TexturedMesh(vertices, faces, uv, normals, texture, colors=colors)
    uv = torch.from_numpy(found["uv"].astype(np.float32))
    return TexturedMesh(vertices, faces, uv, normals, torch.from_numpy(found["texture"].copy()))
