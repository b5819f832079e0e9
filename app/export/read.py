"""Anybody's mesh file as a TexturedMesh, for the writers and the report: metres, one texture or colours by vertex.

What we wrote ourselves is taken as it is. Pictures of several parts are put under one another in one texture; a plain
colour of a material is a small field of it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from app.export.glb import TexturedMesh, read_chunks, read_glb
from app.export.mesh_files import ANY
from app.export.mesh_read import TIME_LIMIT, MeshFile, read_mesh
from app.export.preview import to_linear, to_srgb
from renderers.mesh import vertex_normals

MOST_TEXELS = 8192  # along each side of the joined picture
FIELD, ROW = 4, 64  # texels along a plain colour's side, and how many stand in a row


def read_textured(path: Path, time_limit: float = TIME_LIMIT) -> TexturedMesh:
    """The mesh of a file, all its parts in one; light grey where it has no colours. UsageError, one sentence, for what
    is no mesh or cannot be read."""
    if path.suffix == ".glb" and path.is_file() and is_ours(path):
        with suppress(ValueError):  # damaged: the other reader says what is wrong
            return read_glb(path)
    return textured(read_mesh(path, ANY, time_limit))


def is_ours(path: Path) -> bool:
    """Whether Polymode wrote a GLB, and nobody else since."""
    try:
        document, _ = read_chunks(path)
        return str(document["asset"]["generator"]).startswith("polymode ")
    except (ValueError, KeyError, TypeError, OSError):
        return False


def textured(mesh: MeshFile) -> TexturedMesh:
    """`mesh` in metres with one texture, or with colours by vertex where it has no picture of more than one colour."""
    vertices, normals = mesh.vertices * mesh.unit, mesh.normals.clone()
    odd = ~((normals.norm(dim=1) - 1).abs() < 0.01)
    normals[odd] = vertex_normals(vertices, mesh.faces)[odd]
    normals[~(normals.norm(dim=1) > 0.5)] = torch.tensor([0.0, 1.0, 0.0])
    drawn = any(bool((p != p[0, 0]).any()) for p in mesh.textures)
    if mesh.by_vertex and not drawn:
        uv, white = torch.full((len(vertices), 2), 0.5), torch.full((1, 1, 3), 255, dtype=torch.uint8)
        colors = (mesh.vertex_colors() * 255 + 0.5).to(torch.uint8)
        return TexturedMesh(vertices, mesh.faces, uv, normals, white, colors=colors)
    uv, texture = sheet(mesh)
    return TexturedMesh(vertices, mesh.faces, uv.float(), normals, torch.from_numpy(texture))


def sheet(mesh: MeshFile) -> tuple[Tensor, np.ndarray]:
    """(uv (V, 2), picture (H, W, 3) uint8): every picture, dyed by its material; a field for every plain colour."""
    which = torch.full((len(mesh.vertices),), -1)
    which[mesh.faces.long()] = mesh.texture[:, None].expand(-1, 3)
    pieces, uv = [], torch.full((len(which), 2), 0.5, dtype=torch.float64)
    for i, picture in enumerate(mesh.textures):
        mine = which == i
        pieces.append((mine, dyed(picture, mesh.tint[mine])))
        if mesh.uv is not None:
            uv[mine] = mesh.uv[mine].double()
    if bool((which < 0).any()):
        mine = which < 0
        levels = (mesh.tint[mine] * 255 + 0.5).to(torch.uint8)
        palette, number = levels.unique(dim=0, return_inverse=True)
        rows, columns = -(-len(palette) // ROW), min(len(palette), ROW)
        fields = torch.zeros(rows * columns, 3, dtype=torch.uint8)
        fields[: len(palette)] = palette
        picture = fields.view(rows, columns, 3).repeat_interleave(FIELD, 0).repeat_interleave(FIELD, 1)
        pieces.append((mine, picture.numpy()))
        place = torch.stack([number % columns, number // columns], 1).double() + 0.5
        uv[mine] = place / torch.tensor([columns, rows])
    if len(pieces) == 1:
        return uv, pieces[0][1]
    wide, high = max(p.shape[1] for _, p in pieces), sum(p.shape[0] for _, p in pieces)
    out, top = np.zeros((high, wide, 3), np.uint8), 0
    for mine, picture in pieces:
        h, w = picture.shape[:2]
        out[top : top + h, :w] = picture
        at = uv[mine]
        at = at if bool(((at >= 0) & (at <= 1)).all()) else at - at.floor()  # a picture that repeats
        size = torch.tensor([w, h], dtype=torch.float64)
        at = torch.minimum(torch.maximum(at, 0.5 / size), 1 - 0.5 / size)
        uv[mine] = (at * size + torch.tensor([0, top])) / torch.tensor([wide, high])
        top += h
    if max(wide, high) > MOST_TEXELS:
        smaller = Image.fromarray(out).resize((min(wide, MOST_TEXELS), min(high, MOST_TEXELS)))
        out = np.asarray(smaller).copy()
    return uv, out


def dyed(picture: Tensor, tint: Tensor) -> np.ndarray:
    """A picture (H, W, 3) uint8 times the mean of its vertices' colours, as light is multiplied."""
    mean = tint.mean(0) if len(tint) else torch.ones(3)
    if bool((mean > 0.998).all()):
        return picture.numpy()
    light = to_linear(picture / 255) * to_linear(mean)
    return (to_srgb(light) * 255 + 0.5).to(torch.uint8).numpy()
