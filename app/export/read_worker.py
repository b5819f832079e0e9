"""The process that reads anybody's mesh: a path as argument, npz of one mesh on stdout; `app.export.read` starts it.

A reader can hang, crash or take all memory on a file that somebody made badly; here it has a time and a memory limit,
and whatever happens becomes one sentence. It imports numpy, Pillow and trimesh only, and nothing of Polymode.

Exit code 3: the last line of stderr is the sentence.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

KINDS = (".glb", ".gltf", ".obj", ".ply", ".stl", ".3mf", ".off")
MOST_FACES = 1_000_000
MOST_BYTES = 500_000_000
MOST_TEXELS = 8192  # along each side of the joined picture
COMPRESSED = {"KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt"}
GREY = np.array([204, 204, 204], np.uint8)  # of what has no colour
Arrays = dict[str, NDArray]


def read(path: Path) -> Arrays:
    """vertices, faces, and where the file has them normals, uv (v from the top), texture, colors (by vertex, sRGB), of
    all its parts in one, as it stands in the file. ValueError, one sentence, for what cannot be read."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{path} is no mesh file that can be read; give {', '.join(k[1:] for k in KINDS)}.")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{path} has {size / 1e6:.0f} MB; the limit is {MOST_BYTES // 1_000_000} MB.")
    if size == 0:
        raise ValueError(f"{path} is empty; give a mesh file.")
    unit = 1.0
    if kind in (".glb", ".gltf"):
        check_gltf(path, kind)
    if kind == ".3mf":
        check_zip(path)
    if kind == ".stl":
        check_stl(path, size)
    try:
        scene = trimesh.load_scene(path, process=False)
        if kind == ".3mf":  # in metres, as every other
            unit = trimesh.units.unit_conversion(scene.units or "mm", "m")
        parts = [g for g in scene.dump(concatenate=False) if isinstance(g, trimesh.Trimesh) and len(g.faces)]
    except MemoryError:
        raise
    except Exception as e:
        why = " ".join(f"{type(e).__name__}: {e}".split())[:100]
        raise ValueError(f"{path} is damaged or cut short ({why}); export it anew.") from e
    if not parts:
        raise ValueError(f"{path} is empty: it has no triangles.")
    count = sum(len(p.faces) for p in parts)
    if count > MOST_FACES:
        raise ValueError(f"{path} has {count:,} faces; the limit is {MOST_FACES:,}, so simplify it first.")
    for p in parts:
        if not np.isfinite(p.vertices).all():
            bad = int((~np.isfinite(p.vertices).all(1)).sum())
            raise ValueError(f"{path} has {bad} vertices that are not finite numbers; repair it first.")
        if p.faces.min() < 0 or p.faces.max() >= len(p.vertices):
            raise ValueError(f"{path} has faces that point outside its {len(p.vertices)} vertices; repair it first.")
    out = joined(parts)
    out["vertices"] = out["vertices"] * unit
    if kind == ".stl":  # in millimetres by custom
        out["vertices"] = out["vertices"] / 1000
    return out


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


def check_stl(path: Path, size: int) -> None:
    """ValueError for a binary STL with too many faces, which is known before it is read."""
    with path.open("rb") as file:
        head = file.read(84)
    count = struct.unpack_from("<I", head, 80)[0] if len(head) == 84 else 0
    if count > MOST_FACES and size == 84 + 50 * count:
        raise ValueError(f"{path} has {count:,} faces; the limit is {MOST_FACES:,}, so simplify it first.")


def check_zip(path: Path) -> None:
    """ValueError where a 3MF is no zip, or unpacks to more than anybody's mesh."""
    try:
        with zipfile.ZipFile(path) as z:
            total = sum(i.file_size for i in z.infolist())
    except zipfile.BadZipFile as e:
        raise ValueError(f"{path} is not a 3MF file, or is cut short.") from e
    if total > 4 * MOST_BYTES:
        raise ValueError(f"{path} unpacks to {total / 1e6:.0f} MB; the limit is {4 * MOST_BYTES // 1_000_000} MB.")


def joined(parts: list[trimesh.Trimesh]) -> Arrays:
    """All parts in one. Pictures are put under one another in one texture, where there are several; a plain colour of
    a material is a small field of it."""
    if any(vertex_colors(p) is not None for p in parts) and not any(drawn(p) for p in parts):
        return painted(parts)
    fields = [picture(p) or Image.new("RGB", (4, 4), tuple(plain_color(p).tolist())) for p in parts]
    distinct = {image.tobytes() + bytes(str(image.size), "ascii"): image for image in fields}
    places, top = {}, 0
    for key, image in distinct.items():
        places[key] = top
        top += image.height
    wide = max(i.width for i in distinct.values())
    sheet = Image.new("RGB", (wide, top))
    for key, image in distinct.items():
        sheet.paste(image, (0, places[key]))
    single = len(distinct) == 1
    uv = []
    for p, image in zip(parts, fields, strict=True):
        found = texture_uv(p)
        flat = np.full((len(p.vertices), 2), 0.5) if found is None else np.stack([found[:, 0], 1 - found[:, 1]], 1)
        if not single:
            if flat.min() < 0 or flat.max() > 1:  # a picture that repeats
                flat = flat - np.floor(flat)
            low = places[image.tobytes() + bytes(str(image.size), "ascii")]
            flat = flat.clip(0.5 / np.array(image.size), 1 - 0.5 / np.array(image.size))
            flat = flat * np.array(image.size) / [wide, top] + [0, low / top]
        uv.append(flat)
    if max(sheet.size) > MOST_TEXELS:
        sheet = sheet.resize(tuple(min(s, MOST_TEXELS) for s in sheet.size))  # pyright: ignore[reportArgumentType]
    return stacked(parts) | {"uv": np.concatenate(uv), "texture": np.asarray(sheet)}


def painted(parts: list[trimesh.Trimesh]) -> Arrays:
    """Parts with colours by vertex, or by face, which then have corners of their own."""
    made, colors = [], []
    for p in parts:
        by_vertex = vertex_colors(p)
        if by_vertex is None:
            by_vertex = np.tile(plain_color(p), (len(p.vertices), 1))
        elif look(p).kind == "face":
            by_face = np.asarray(look(p).face_colors)[:, :3]
            p = trimesh.Trimesh(
                p.vertices[p.faces].reshape(-1, 3), np.arange(3 * len(p.faces)).reshape(-1, 3), process=False
            )
            by_vertex = np.repeat(by_face, 3, 0)
        made.append(p)
        colors.append(by_vertex)
    return stacked(made) | {"colors": np.concatenate(colors).astype(np.uint8)}


def stacked(parts: list[trimesh.Trimesh]) -> Arrays:
    shifts = np.cumsum([0, *(len(p.vertices) for p in parts[:-1])])
    return {
        "vertices": np.concatenate([np.asarray(p.vertices, np.float64) for p in parts]),
        "faces": np.concatenate([np.asarray(p.faces, np.int64) + s for p, s in zip(parts, shifts, strict=True)]),
        "normals": np.concatenate([np.asarray(p.vertex_normals, np.float64) for p in parts]),
    }


def look(p: trimesh.Trimesh) -> Any:
    """Its colours or texture: trimesh has several kinds."""
    return p.visual


def material(p: trimesh.Trimesh) -> Any:
    return getattr(p.visual, "material", None)


def picture(p: trimesh.Trimesh) -> Image.Image | None:
    """The base colour's picture, if the part has coordinates in it."""
    m = material(p)
    found = getattr(m, "baseColorTexture", None) or getattr(m, "image", None)
    if not isinstance(found, Image.Image) or texture_uv(p) is None:
        return None
    return found.convert("RGB")


def drawn(p: trimesh.Trimesh) -> bool:
    """Whether the part has a picture of more than one colour."""
    image = picture(p)
    return image is not None and any(low != high for low, high in image.getextrema())  # pyright: ignore[reportGeneralTypeIssues]


def texture_uv(p: trimesh.Trimesh) -> NDArray | None:
    """(V, 2) with v from below, or None where there are none that are numbers."""
    uv = getattr(look(p), "uv", None)
    if uv is None or np.shape(uv) != (len(p.vertices), 2) or not np.isfinite(uv).all():
        return None
    return np.asarray(uv, np.float64)


def vertex_colors(p: trimesh.Trimesh) -> NDArray | None:
    """(V, 3) uint8 sRGB of a part that is painted by vertex or face."""
    if look(p).kind in ("vertex", "face"):
        return np.asarray(look(p).vertex_colors)[:, :3]
    linear = p.vertex_attributes.get("color") if hasattr(p, "vertex_attributes") else None
    if linear is None or np.shape(linear)[:1] != (len(p.vertices),) or np.shape(linear)[1] < 3:
        return None
    rgb = np.asarray(linear, np.float64)[:, :3]
    kind = np.asarray(linear).dtype
    rgb = rgb / np.iinfo(kind).max if np.issubdtype(kind, np.integer) else rgb
    return np.rint(srgb(rgb.clip(0, 1)) * 255).astype(np.uint8)


def srgb(linear: NDArray) -> NDArray:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def plain_color(p: trimesh.Trimesh) -> NDArray[np.uint8]:
    """(3,) the material's one colour, or a light grey."""
    m = material(p)
    factor = getattr(m, "baseColorFactor", None)  # linear in glTF; trimesh has it as bytes
    if factor is not None:
        return np.rint(srgb(np.asarray(factor, float)[:3] / 255) * 255).astype(np.uint8)
    diffuse = getattr(m, "diffuse", None)
    return GREY if diffuse is None else np.asarray(diffuse, np.uint8)[:3]


def main() -> int:
    limit = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        found = read(Path(sys.argv[1]))
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
