"""What files are taken as meshes, and what refuses one before anything is loaded: no numpy, no torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from app.errors import UsageError
from app.text import shown

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off", ".3mf")
KINDS = "GLB, glTF, OBJ, PLY, STL, OFF or 3MF"


@dataclass(frozen=True)
class Limits:
    """Of a file that is read."""

    faces: int
    bytes: int


START = Limits(200_000, 256_000_000)  # of what a run starts from
ANY = Limits(1_000_000, 500_000_000)  # of what is converted or looked into
_HEAD = 4096


def is_mesh_name(name: str) -> bool:
    """Whether a file of this name may be a mesh."""
    return name.lower().endswith(SUFFIXES)


def check_file(path: Path, limits: Limits = START) -> None:
    """UsageError, one sentence, for what can be told without reading it all: missing, a folder, another kind, empty,
    too large."""
    named = shown(str(path), 200)
    if path.is_dir():
        raise UsageError(f"{named} is a folder; give a mesh file ({KINDS}).")
    if not path.exists():
        raise UsageError(f"{named} does not exist; give a mesh file ({KINDS}).")
    if not is_mesh_name(path.name):
        raise UsageError(f"{named} is no kind of mesh that is read; give {KINDS}.")
    try:
        size = path.stat().st_size
        if not size:
            raise UsageError(f"{named} is empty; export the mesh again.")
        if size > limits.bytes:
            raise UsageError(
                f"{named} has {size // 1_000_000} MB and the limit is {limits.bytes // 1_000_000}; simplify the mesh."
            )
        faces = announced_faces(path, size)
    except OSError as e:
        raise UsageError(f"{named} cannot be read ({e.strerror}); give another file.") from e
    if faces > limits.faces:
        raise UsageError(f"{named} has {faces:,} faces and the limit is {limits.faces:,}; simplify the mesh.")


def announced_faces(path: Path, size: int) -> int:
    """How many faces a file of `size` bytes says, at a glance, that it has; 0 where that takes more. OSError."""
    suffix = path.suffix.lower()
    if suffix == ".obj":
        return path.read_bytes().count(b"\nf ")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if suffix == ".ply":
        found = re.search(rb"element face (\d+)", head)
    elif suffix == ".off":
        found = re.match(rb"\s*[A-Z]*OFF\s+\d+\s+(\d+)", head)
    elif suffix == ".stl" and size == 84 + 50 * int.from_bytes(head[80:84], "little"):
        return (size - 84) // 50
    else:
        return 0
    return int(found[1]) if found else 0
