"""Anybody's mesh file, read by trimesh: its surface, its colours, its texture coordinates.

Positions come in glTF's axes, Y up, at the file's own place and scale. Printers' formats (STL, 3MF) have Z up and are
turned once, (x, y, z) -> (x, z, -y), as app/export's writers turn back. Colours are sRGB-encoded here; glTF's factors
and vertex colours are linear in the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from app.errors import UsageError
from app.export.mesh_files import KINDS, MAX_FACES, check_file, too_many
from app.export.preview import sample_texture, to_linear, to_srgb
from app.text import shown

Z_UP = (".stl", ".3mf")
LINEAR = (".glb", ".gltf")
CHUNK = 1 << 20


@dataclass(frozen=True)
class MeshFile:
    """All surfaces of a file as one mesh; tensors on the CPU.

    vertices (V, 3) float32, as split in the file. faces (F, 3) int32. normals (V, 3) float32 unit: the file's own, or
    computed from its faces. tint (V, 3): the colour a vertex has beside its texture, sRGB in [0, 1]. coloured: whether
    the file says any colour at all (tint is a light grey where not). uv (V, 2): (0, 0) the texture's top left corner;
    None where a part has none. textures: pictures (H, W, 3) uint8, sRGB. texture (F,) int64: which of them a face has,
    -1 for none. notes: what was left out, in words.
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


def read_mesh(path: Path, most_faces: int = MAX_FACES) -> MeshFile:
    """Read a mesh file. UsageError, one sentence, for what is none: missing, of another kind, damaged, empty, with
    numbers that are not finite, without extent, or with more than `most_faces` triangles."""
    check_file(path, most_faces)
    named, suffix = shown(str(path), 200), path.suffix.lower()
    try:
        scene = trimesh.load(path, force="scene", process=False)
        nodes: list[Any] = [scene.graph[n] for n in scene.graph.nodes_geometry]  # pyright: ignore
        pairs = [(scene.geometry[name], np.asarray(m, np.float64)) for m, name in nodes]  # pyright: ignore
        pairs = [(g, m) for g, m in pairs if isinstance(g, trimesh.Trimesh) and len(g.faces)]
        count = sum(len(g.faces) for g, _ in pairs)
        if count > most_faces:
            raise too_many(path, count, most_faces)
        parts = [_part(g, m, suffix) for g, m in pairs]
    except UsageError:
        raise
    except MemoryError:
        raise
    except Exception as e:  # trimesh raises whatever its readers meet
        why = " ".join(str(e).split())[:80]
        raise UsageError(
            f"{named} cannot be read as a mesh ({type(e).__name__}{': ' + why if why else ''}); give {KINDS}."
        ) from e
    if not parts:
        raise UsageError(f"{named} has no triangles; give a mesh with a surface.")
    mesh = _joined(parts)
    if not bool(torch.isfinite(mesh.vertices).all()):
        raise UsageError(f"{named} has vertices that are not finite numbers; repair the mesh.")
    if int(mesh.faces.min()) < 0 or int(mesh.faces.max()) >= len(mesh.vertices):
        raise UsageError(f"{named} has faces that point outside its vertices; repair the mesh.")
    used = mesh.vertices[mesh.faces.long()]
    if float((used.amax((0, 1)) - used.amin((0, 1))).max()) <= 0:
        raise UsageError(f"{named} has no extent: all its vertices are in one place; repair the mesh.")
    if float(torch.linalg.cross(used[:, 1] - used[:, 0], used[:, 2] - used[:, 0]).abs().max()) <= 0:
        raise UsageError(f"{named} has no area: all its faces are lines or points; repair the mesh.")
    return mesh


@dataclass(frozen=True)
class _Part:
    """One geometry of a scene, placed, as arrays; `picture` (H, W, 3) uint8 or None."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    normals: NDArray[np.float64]
    tint: NDArray[np.float64] | None
    uv: NDArray[np.float64] | None
    picture: NDArray[np.uint8] | None


def _part(mesh: trimesh.Trimesh, matrix: NDArray[np.float64], suffix: str) -> _Part:
    turn = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]) if suffix in Z_UP else np.eye(3)
    linear = turn @ matrix[:3, :3]
    vertices = np.asarray(mesh.vertices, np.float64) @ linear.T + turn @ matrix[:3, 3]
    faces = np.asarray(mesh.faces, np.int64)
    determinant = float(np.linalg.det(linear))
    flat = abs(determinant) < 1e-30
    normals = np.asarray(mesh.vertex_normals, np.float64) @ (np.eye(3) if flat else np.linalg.inv(linear))
    if determinant < 0:  # a mirrored node: keep the outside outside
        faces = faces[:, ::-1]
        if "vertex_normals" not in mesh._cache.cache:
            normals = -normals
    visual: Any = mesh.visual
    material, tint, picture = getattr(visual, "material", None), None, None
    uv = getattr(visual, "uv", None)
    uv = None if uv is None or len(uv) != len(vertices) else np.asarray(uv, np.float64)[:, :2]
    if uv is not None:
        uv = uv * [1, -1] + [0, 1]
    if material is None:
        if visual is not None and visual.kind in ("vertex", "face"):
            if visual.kind == "face":  # a colour a face: vertices split, so that no colour is lost
                levels = np.repeat(np.asarray(visual.face_colors)[:, :3], 3, 0)
                vertices, normals = vertices[faces.reshape(-1)], normals[faces.reshape(-1)]
                faces, uv = np.arange(len(vertices)).reshape(-1, 3), None
            else:
                levels = np.asarray(visual.vertex_colors)[:, :3]
            tint = _encoded(levels / 255, suffix)
    else:
        tint, picture = _material(material, visual, len(vertices), suffix)
    return _Part(vertices, faces, normals, tint, uv, picture if uv is not None else None)


def _material(
    material: Any, visual: Any, count: int, suffix: str
) -> tuple[NDArray[np.float64] | None, NDArray[np.uint8] | None]:
    """(colour a vertex or None, base colour picture or None) of trimesh's two kinds of material."""
    picture = getattr(material, "baseColorTexture", None)
    picture = getattr(material, "image", None) if picture is None else picture
    factor = getattr(material, "baseColorFactor", None)
    if factor is None and suffix not in LINEAR and picture is None:
        factor = getattr(material, "diffuse", None)
    tint = None
    if factor is not None:
        levels = np.asarray(factor, np.float64).reshape(-1)[:3]
        levels = levels / 255 if np.asarray(factor).dtype == np.uint8 else levels
        tint = np.tile(_encoded(levels, suffix), (count, 1))
    attributes = getattr(visual, "vertex_attributes", {})
    painted = attributes.get("color") if attributes else None
    if painted is not None and len(painted) == count:
        levels = np.asarray(painted)[:, :3]
        painted = levels / 255 if levels.dtype == np.uint8 else levels.astype(np.float64)
        first = np.ones((count, 3)) if tint is None else to_linear(torch.from_numpy(tint)).numpy()
        tint = _encoded(first * painted, suffix)
    return tint, None if picture is None else np.asarray(picture.convert("RGB"), np.uint8)


def _encoded(levels: NDArray[Any], suffix: str) -> NDArray[np.float64]:
    """sRGB in [0, 1] of a file's levels."""
    clipped = torch.from_numpy(np.nan_to_num(np.asarray(levels, np.float64)).clip(0, 1))
    return (to_srgb(clipped) if suffix in LINEAR else clipped).numpy()


def _joined(parts: list[_Part]) -> MeshFile:
    base = np.cumsum([0] + [len(p.vertices) for p in parts])
    notes, pictures, which = [], [], []
    for p in parts:
        which.append(np.full(len(p.faces), len(pictures) if p.picture is not None else -1))
        if p.picture is not None:
            pictures.append(torch.from_numpy(p.picture.copy()))
    uv = None
    if all(p.uv is not None for p in parts) or pictures:
        uv = np.concatenate([np.zeros((len(p.vertices), 2)) if p.uv is None else p.uv for p in parts])
        if not np.isfinite(uv).all():
            notes.append("Texture coordinates that are not finite numbers were left out.")
            uv, pictures, which = None, [], [np.full_like(w, -1) for w in which]
    coloured = bool(pictures) or any(p.tint is not None for p in parts)
    plain = 1.0 if coloured else 0.7
    tint = np.concatenate([np.full((len(p.vertices), 3), plain) if p.tint is None else p.tint for p in parts])
    normals = torch.from_numpy(np.nan_to_num(np.concatenate([p.normals for p in parts])).astype(np.float32))
    return MeshFile(
        vertices=torch.from_numpy(np.concatenate([p.vertices for p in parts]).astype(np.float32)),
        faces=torch.from_numpy(
            np.concatenate([p.faces + b for p, b in zip(parts, base, strict=False)]).astype(np.int32)
        ),
        normals=F.normalize(normals, dim=1),
        tint=torch.from_numpy(tint.astype(np.float32)),
        coloured=coloured,
        uv=None if uv is None else torch.from_numpy(uv.astype(np.float32)),
        textures=tuple(pictures),
        texture=torch.from_numpy(np.concatenate(which).astype(np.int64)),
        notes=tuple(notes),
    )
