"""Reads anybody's mesh by trimesh: a path, limits and sizes as arguments, npz of one mesh on stdout.

`app.export.mesh_read` starts it as a process: a reader can hang, crash or take all memory on a file that somebody made
badly; there it has a time and a memory limit, and whatever happens becomes one sentence. It imports numpy, Pillow and
trimesh only, and nothing of Polymode.

Exit code 3: the last line of stderr is the sentence.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

Z_UP = (".stl", ".3mf", ".ply", ".off")  # by custom; all others have Y up
LINEAR = (".glb", ".gltf")  # factors and vertex colours are linear there
MOST_UNPACKED = 2_000_000_000
COMPRESSED = {"KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt"}
GREY = 0.8  # sRGB, of what has no colour
Arrays = dict[str, NDArray[Any]]


def read(path: Path, most_faces: int) -> Arrays:
    """All parts of a file as one mesh, as `MeshFile` (app/export/mesh_read.py) has it. ValueError, one sentence, for
    what cannot be read."""
    suffix = path.suffix.lower()
    unit = 0.001 if suffix == ".stl" else 1.0  # in millimetres by custom
    if suffix in (".glb", ".gltf"):
        check_gltf(path, suffix)
    if suffix == ".3mf":
        check_zip(path)
    try:
        scene = trimesh.load_scene(path, process=False)
        if suffix == ".3mf":
            unit = trimesh.units.unit_conversion(scene.units or "mm", "m")
        nodes: list[Any] = [scene.graph[n] for n in scene.graph.nodes_geometry]
        pairs = [(scene.geometry[name], np.asarray(matrix, np.float64)) for matrix, name in nodes]
        pairs = [(g, matrix) for g, matrix in pairs if isinstance(g, trimesh.Trimesh) and len(g.faces)]
    except MemoryError:
        raise
    except Exception as e:  # trimesh raises whatever its readers meet
        why = " ".join(f"{type(e).__name__}: {e}".split())[:100]
        raise ValueError(f"{path} is damaged or cut short ({why}); export it anew.") from e
    if not pairs:
        raise ValueError(f"{path} is empty: it has no triangles.")
    count = sum(len(g.faces) for g, _ in pairs)
    if count > most_faces:
        raise ValueError(f"{path} has {count:,} faces and the limit is {most_faces:,}; simplify the mesh.")
    for g, _ in pairs:
        if not np.isfinite(g.vertices).all():
            bad = int((~np.isfinite(g.vertices).all(1)).sum())
            raise ValueError(f"{path} has {bad} vertices that are not finite numbers; repair it first.")
        if g.faces.min() < 0 or g.faces.max() >= len(g.vertices):
            raise ValueError(f"{path} has faces that point outside its {len(g.vertices)} vertices; repair it first.")
    return joined([part(g, matrix, suffix) for g, matrix in pairs]) | {"unit": np.array(unit)}


def check_gltf(path: Path, kind: str) -> None:
    """ValueError where a glTF is none, is cut short, is compressed, or lacks a file beside it."""
    data = path.read_bytes()
    text = data
    if kind == ".glb":
        if len(data) < 20 or data[:4] != b"glTF":
            raise ValueError(f"{path} is not a binary glTF file, whatever its name says.")
        version, total, length = struct.unpack_from("<III", data, 4)
        if version != 2:
            raise ValueError(f"{path} is glTF version {version}; export it as version 2.")
        if total > len(data) or 20 + length > len(data):
            raise ValueError(f"{path} is cut short; copy or export it anew.")
        text = data[20 : 20 + length]
    try:
        document = json.loads(text)
        extensions = document.get("extensionsRequired", [])
        uris = [x.get("uri") for key in ("buffers", "images") for x in document.get(key, [])]
    except (ValueError, AttributeError, RecursionError) as e:
        raise ValueError(f"{path} is damaged: its JSON cannot be read.") from e
    for name, what in COMPRESSED.items():
        if name in extensions:
            raise ValueError(f"{path} is compressed with {what}, which cannot be read; export it without compression.")
    for uri in uris:
        if not isinstance(uri, str) or uri.startswith("data:"):
            continue
        beside = path.parent / uri
        if "://" in uri or not beside.resolve().is_relative_to(path.parent.resolve()):
            raise ValueError(f"{path} needs {uri[:80]!r}, which is not in its folder; export it with all it needs.")
        if not beside.is_file():
            raise ValueError(f"{path} needs the file {uri[:80]!r} beside it, which is not there.")


def check_zip(path: Path) -> None:
    """ValueError where a 3MF is no zip, or unpacks to more than anybody's mesh."""
    try:
        with zipfile.ZipFile(path) as z:
            total = sum(i.file_size for i in z.infolist())
    except zipfile.BadZipFile as e:
        raise ValueError(f"{path} is not a 3MF file, or is cut short.") from e
    if total > MOST_UNPACKED:
        raise ValueError(f"{path} unpacks to {total / 1e6:.0f} MB; the limit is {MOST_UNPACKED // 1_000_000} MB.")


@dataclass(frozen=True)
class Part:
    """One geometry of a scene, placed, Y up. tint (V, 3): sRGB in [0, 1], or None; by_vertex: not of a material.
    uv (V, 2): (0, 0) the picture's top left corner. picture (H, W, 3) uint8 or None."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    normals: NDArray[np.float64]
    tint: NDArray[np.float64] | None
    by_vertex: bool
    uv: NDArray[np.float64] | None
    picture: NDArray[np.uint8] | None


def part(mesh: trimesh.Trimesh, matrix: NDArray[np.float64], suffix: str) -> Part:
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
    uv = getattr(visual, "uv", None)
    fits = uv is not None and np.shape(uv) == (len(vertices), 2)
    uv = np.asarray(uv, np.float64) * [1, -1] + [0, 1] if fits else None
    if getattr(visual, "material", None) is not None:
        tint, by_vertex, picture = of_material(visual, len(vertices), suffix)
        return Part(vertices, faces, normals, tint, by_vertex, uv, picture if uv is not None else None)
    if visual is None or visual.kind not in ("vertex", "face"):
        return Part(vertices, faces, normals, None, False, uv, None)
    if visual.kind == "face":  # a colour a face: vertices split, so that no colour is lost
        levels = np.repeat(np.asarray(visual.face_colors)[:, :3], 3, 0)
        vertices, normals = vertices[faces.reshape(-1)], normals[faces.reshape(-1)]
        faces, uv = np.arange(len(vertices)).reshape(-1, 3), None
    else:
        levels = np.asarray(visual.vertex_colors)[:, :3]
    return Part(vertices, faces, normals, encoded(levels / 255, suffix), True, uv, None)


def of_material(
    visual: Any, count: int, suffix: str
) -> tuple[NDArray[np.float64] | None, bool, NDArray[np.uint8] | None]:
    """(colour a vertex or None, whether vertices have their own, base colour picture or None) of trimesh's materials.
    glTF's factor multiplies picture and vertices."""
    material = visual.material
    picture = getattr(material, "baseColorTexture", None)
    picture = getattr(material, "image", None) if picture is None else picture
    factor = getattr(material, "baseColorFactor", None)
    if factor is None and suffix not in LINEAR and picture is None:
        factor = getattr(material, "diffuse", None)
    painted = (getattr(visual, "vertex_attributes", None) or {}).get("color")
    fits = painted is not None and np.shape(painted)[:1] == (count,) and np.shape(painted)[1] >= 3
    painted = levels_of(painted)[:, :3] if fits else None
    found = None if picture is None else np.asarray(picture.convert("RGB"), np.uint8)
    if factor is None and painted is None:
        return None, False, found
    tint = np.ones((count, 3)) if painted is None else painted
    if factor is not None:
        tint = tint * levels_of(factor).reshape(-1)[:3]
    return encoded(tint, suffix), painted is not None, found


def levels_of(values: Any) -> NDArray[np.float64]:
    """In [0, 1], of integers of any size or of floats."""
    found = np.asarray(values)
    return found / np.iinfo(found.dtype).max if np.issubdtype(found.dtype, np.integer) else found.astype(np.float64)


def encoded(levels: NDArray[Any], suffix: str) -> NDArray[np.float64]:
    """sRGB in [0, 1] of a file's levels."""
    x = np.nan_to_num(np.asarray(levels, np.float64)).clip(0, 1)
    if suffix not in LINEAR:
        return x
    return np.where(x <= 0.0031308, x * 12.92, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)


def joined(parts: list[Part]) -> Arrays:
    """All parts in one; a picture that several share is there once."""
    base = np.cumsum([0] + [len(p.vertices) for p in parts])
    notes, pictures, which = [], {}, []
    for p in parts:
        if p.picture is None:
            which.append(np.full(len(p.faces), -1))
        else:
            key = p.picture.tobytes(), p.picture.shape
            which.append(np.full(len(p.faces), pictures.setdefault(key, (len(pictures), p.picture))[0]))
    out: Arrays = {}
    if all(p.uv is not None for p in parts) or pictures:
        uv = np.concatenate([np.zeros((len(p.vertices), 2)) if p.uv is None else p.uv for p in parts])
        if np.isfinite(uv).all():
            out["uv"] = uv
        else:
            notes.append("Texture coordinates that are not finite numbers were left out.")
            pictures, which = {}, [np.full_like(w, -1) for w in which]
    coloured = bool(pictures) or any(p.tint is not None for p in parts)
    plain = 1.0 if coloured else GREY
    tints = [np.full((len(p.vertices), 3), plain) if p.tint is None else p.tint for p in parts]
    out |= {f"picture{i}": picture for i, picture in pictures.values()}
    return out | {
        "vertices": np.concatenate([p.vertices for p in parts]),
        "faces": np.concatenate([p.faces + b for p, b in zip(parts, base, strict=False)]),
        "normals": np.concatenate([p.normals for p in parts]),
        "tint": np.concatenate(tints),
        "by_vertex": np.array(any(p.by_vertex for p in parts)),
        "coloured": np.array(coloured),
        "texture": np.concatenate(which),
        "notes": np.array(notes, str),
    }


def main() -> int:
    import resource

    most_faces, memory = int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        found = read(Path(sys.argv[1]), most_faces)
        reply = io.BytesIO()
        np.savez(reply, **found)  # pyright: ignore[reportArgumentType]
    except (ValueError, OSError) as e:
        what = f"{sys.argv[1]} cannot be read ({e.strerror})." if isinstance(e, OSError) and e.strerror else str(e)
        sys.stderr.write("\n" + " ".join(what.splitlines()) + "\n")
        return 3
    except MemoryError:
        sys.stderr.write(f"\n{sys.argv[1]} needs more memory than a mesh may; simplify it first.\n")
        return 3
    sys.stdout.buffer.write(reply.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
