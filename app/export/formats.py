"""A textured mesh in any of the formats; each writer has its file, and its axes and units in its docstring."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.export.glb import TexturedMesh, write_glb
from app.export.obj import companions, write_obj
from app.export.ply import write_ply
from app.export.stl import write_stl
from app.export.threemf import write_3mf
from app.export.usdz import write_usdz


def files_of(path: Path) -> list[Path]:
    """What `write` puts there for `path`: the file itself, of an OBJ also its MTL and PNGs."""
    return [path, *companions(path)] if path.suffix == ".obj" else [path]


def write(path: Path, mesh: TexturedMesh, size: float | None, extras: Mapping[str, Any] | None = None) -> str:
    """Write `mesh` in the format that `path` ends with. `size`: the longest side in millimetres, for those that have
    units (STL, 3MF, USDZ); None keeps the mesh's own, in metres. `extras` as `write_glb` has them.
    Returns a sentence where the surface had to be repaired, else "".

    ValueError, one sentence, for what cannot be written; MissingError for an absent package.
    """
    match path.suffix:
        case ".glb":
            write_glb(path, mesh, extras=extras)
        case ".obj":
            write_obj(path, mesh)
        case ".ply":
            write_ply(path, mesh)
        case ".stl":
            return write_stl(path, mesh, size)
        case ".3mf":
            return write_3mf(path, mesh, size)
        case ".usdz":
            write_usdz(path, mesh, size)
        case other:
            raise ValueError(f"There is no format {other!r}.")
    return ""
