"""A small folder of meshes made in code, for the trainer's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from trimesh.visual import ColorVisuals

from app.training.augment import PALETTE
from app.training.data import Pack, pack_of
from tests.objects import OBJECTS

SHAPES = {
    "ball": lambda: trimesh.creation.icosphere(subdivisions=1),
    "box": lambda: trimesh.creation.box((1, 1.4, 0.8)),
    "cone": lambda: trimesh.creation.cone(0.6, 1.4, sections=8),
    "disc": lambda: trimesh.creation.cylinder(0.8, 0.2, sections=8),
    "tower": lambda: trimesh.creation.box((0.4, 1.6, 0.4)),
}
KINDS = ("glb", "obj", "ply")


def write_meshes(folder: Path, count: int = 30) -> None:
    """Coloured shapes as GLB, OBJ and PLY, called after what they are: red_ball-00.glb."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [(color, shape) for color in PALETTE for shape in SHAPES]
    for k, (color, shape) in enumerate(names[:count]):
        mesh = SHAPES[shape]()
        levels = [int(255 * c) for c in PALETTE[color]] + [255]
        colors = np.tile(np.array(levels, np.uint8), (len(mesh.vertices), 1))
        mesh.visual = ColorVisuals(mesh, vertex_colors=colors)
        mesh.export(folder / f"{color}_{shape}-{k:02d}.{KINDS[k % 3]}")


def toy_pack() -> Pack:
    """The three objects of tests/objects.py."""
    rows = [
        {"name": name.split()[-1], "captions": [name, name.split()[-1]], "family": name, "category": "toy"}
        for name in OBJECTS
    ]
    return pack_of(rows, list(OBJECTS.values()))
