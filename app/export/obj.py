"""Wavefront OBJ with its MTL and PNG. Y up, front to +Z, in the mesh's own units, as Blender and engines expect;
texture coordinates count from the bottom left, so v is turned round.

Positions stand once, however many charts meet there: the surface is as closed as it was before it was unwrapped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from app.export.glb import MATERIAL, METALLIC, ROUGHNESS, TexturedMesh, check_textured, encode_png, write_atomically
from app.export.solid import from_below, welded


def companions(path: Path) -> tuple[Path, Path, Path]:
    """The MTL of an OBJ, its PNG and that of its normal map, with names that need no quotes."""
    stem = re.sub(r"\s+", "_", path.stem)
    return path.with_name(f"{stem}.mtl"), path.with_name(f"{stem}.png"), path.with_name(f"{stem}-normals.png")


def rows(word: str, values: np.ndarray) -> Iterable[str]:
    """Lines "v 1 2 3" of (N, C); nine digits, which float32 survives."""
    form = word + " %.9g" * values.shape[1]
    return (form % tuple(row) for row in values.tolist())


def write_obj(path: Path, mesh: TexturedMesh) -> None:
    """Write `path`, and beside it, unless the mesh is painted by vertex, those of
    `companions(path)` that there are. ValueError, one sentence,
    for a mesh that is empty, not finite or inconsistent."""
    check_textured(mesh)
    material, picture, bumps = companions(path)
    painted = mesh.colors is not None
    points = mesh.vertices.numpy()
    if mesh.colors is not None:  # beside the position, as MeshLab, Blender and ZBrush have it; then without a material
        points = np.concatenate([points, mesh.colors.numpy().astype(np.float32) / 255], 1)
    words, parts = ("v", "vt", "vn"), (points, from_below(mesh.uv.numpy()), mesh.normals.numpy())
    kept = [welded(p) for p in parts]
    corners = np.stack([index[mesh.faces.numpy()] for _, index in kept], 2) + 1
    lines = [] if painted else [f"mtllib {material.name}", f"usemtl {MATERIAL}"]
    for word, values, (first, _) in zip(words, parts, kept, strict=True):
        if not (painted and word == "vt"):
            lines += rows(word, values[first])
    form, used = ("%d//%d", corners[..., [0, 2]]) if painted else ("%d/%d/%d", corners)
    form = "f " + " ".join([form] * 3)
    lines += [form % tuple(c) for c in used.reshape(len(used), -1).tolist()]
    shine = round(2 / ROUGHNESS**4 - 2, 3)  # the Blinn-Phong exponent of that roughness
    described = (
        f"newmtl {MATERIAL}\nKa 0 0 0\nKd 1 1 1\nKs 0.04 0.04 0.04\nNs {shine:g}\nillum 2\n"
        f"Pr {ROUGHNESS:g}\nPm {METALLIC:g}\nmap_Kd {picture.name}\n"
    )
    if mesh.normal_map is not None and not painted:
        described += f"norm {bumps.name}\n"
        write_atomically(bumps, encode_png(mesh.normal_map.numpy()))
    if not painted:
        write_atomically(picture, encode_png(mesh.texture.numpy()))
        write_atomically(material, described.encode())
    write_atomically(path, ("\n".join(lines) + "\n").encode())
