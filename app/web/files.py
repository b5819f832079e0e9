"""What of a run's folder is served: files by name, from a list, and nothing else.

/run/ID/mesh.glb, turntable.mp4, contact_sheet.png, ...      what a run offers (`downloads`)
/run/ID/previews/STAGE-STEP.png|webp, pictures/..., candidates/NN.png
/run/ID/thumbnail                                             a small picture, made for the gallery
"""

from __future__ import annotations

import functools
import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trimesh
from fastapi import HTTPException, Request
from fastapi.responses import FileResponse, Response
from PIL import Image, UnidentifiedImageError

from app.errors import UsageError
from app.export.glb import read_glb
from app.export.report import Report, from_json
from app.jobs import state
from app.run.folder import OUTPUTS, REPORT
from app.web.site import Site

NAMES = re.compile(
    r"previews/[a-z0-9-]{1,40}-\d{1,9}\.(?:png|webp)|pictures/(?:\d\d|\d\d-seen|seen|compare|reproduced)\.png"
    r"|candidates/\d\d\.png"
)
LABELS = {
    "mesh.glb": "GLB",
    "mesh.obj": "OBJ",
    "mesh.mtl": "MTL",
    "mesh.png": "PNG of the OBJ",
    "mesh-normals.png": "Normals of the OBJ",
    "mesh.ply": "PLY",
    "mesh.stl": "STL",
    "mesh.3mf": "3MF",
    "mesh.usdz": "USDZ",
    REPORT: "Report",
    "turntable.mp4": "Turntable",
    "contact_sheet.png": "Contact sheet",
    "config.yaml": "Recipe",
    "metadata.json": "Metadata",
    "log.txt": "Log",
}
TYPES = {
    ".glb": "model/gltf-binary",
    ".obj": "model/obj",
    ".mtl": "model/mtl",
    ".ply": "application/octet-stream",
    ".stl": "model/stl",
    ".3mf": "model/3mf",
    ".usdz": "model/vnd.usdz+zip",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".webp": "image/webp",
    ".json": "application/json",
    ".yaml": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
SHEET = (36, 36, 208)  # left, top and side of the first picture of a contact sheet (app/export/video.py)
THUMBNAIL = 208


def downloads(folder: Path) -> dict[str, str]:
    """{file name: label} of everything that a run offers. The one place to add a format."""
    return {n: LABELS.get(n, n) for n in (*OUTPUTS, state.LOG) if (folder / n).is_file()}


def served(folder: Path, name: str) -> Path | None:
    """The file `name` of a run's folder, or None where that is not one that is served."""
    if name not in downloads(folder) and not NAMES.fullmatch(name):
        return None
    path = folder / name
    inside = path.resolve().is_relative_to(folder.resolve())
    return path if inside and path.is_file() else None


def previews(folder: Path, suffix: str) -> list[Path]:
    """The run's previews of a kind (.png, .webp), oldest first."""
    found = [(p.stat().st_mtime_ns, p.name, p) for p in folder.glob(f"previews/*-*{suffix}") if p.name[0] != "."]
    return [p for *_, p in sorted(found)]


def stage_and_step(path: Path) -> tuple[str, int]:
    """("field", 120) of previews/field-00120.webp."""
    stage, step = path.stem.rsplit("-", 1)
    return stage, int(step) if step.isdigit() else 0


def url(folder: Path, name: str) -> str:
    """The page's address of a file: relative, and other when the file is."""
    try:
        version = (folder / name).stat().st_mtime_ns // 1_000_000
    except OSError:
        version = 0
    return f"run/{quote(folder.name)}/{quote(name)}?v={version}"


@functools.lru_cache(maxsize=64)
def _facts(path: Path, version: int) -> dict[str, Any]:
    mesh = read_glb(path)
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=True)  # texture seams closed
    sides = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    return {
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
        "watertight": bool(solid.is_watertight),
        "bytes": path.stat().st_size,
        "size": [round(float(x), 3) for x in sides],
        "texture": list(mesh.texture.shape[:2]),
    }


def facts(folder: Path) -> dict[str, Any]:
    """What is known of the run's mesh, measured on the file: faces, vertices, watertight, bytes, size (x, y, z),
    texture, charts. {} where there is none that can be read."""
    path = folder / "mesh.glb"
    try:
        found = _facts(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError):
        return {}
    mesh = (state.read_json(folder / "metadata.json") or {}).get("mesh")
    charts = mesh.get("charts") if isinstance(mesh, dict) else None
    return found | ({"charts": charts} if isinstance(charts, int) else {})


def measured(folder: Path) -> Report | None:
    """The report that was written with the run's mesh."""
    return from_json(state.read_json(folder / REPORT))


def thumbnail_source(folder: Path) -> tuple[Path, bool] | None:
    """(picture, whether it is a contact sheet): the finished object, or the newest live turntable, or sheet."""
    sheet = folder / "contact_sheet.png"
    if sheet.is_file():
        return sheet, True
    for suffix in (".webp", ".png"):
        if found := previews(folder, suffix):
            return found[-1], False
    return None


@functools.lru_cache(maxsize=512)
def _thumbnail(path: Path, version: int, sheet: bool) -> bytes:
    with Image.open(path, formats=("PNG", "WEBP")) as image:
        left, top, side = SHEET
        picture = image.convert("RGB")
        if sheet and image.width >= left + side:
            picture = picture.crop((left, top, left + side, top + side))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def respond(site: Site, id: str, name: str) -> Response:
    """The file, or 404."""
    try:
        folder = site.index.folder(id)
    except (UsageError, ValueError, OSError):
        raise HTTPException(404, "There is no such run.") from None
    headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    try:
        if name == "thumbnail":
            source = thumbnail_source(folder)
            if source is not None:
                picture = _thumbnail(source[0], source[0].stat().st_mtime_ns, source[1])
                return Response(picture, media_type="image/webp", headers=headers)
        elif path := served(folder, name):
            return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)
    except (OSError, ValueError, UnidentifiedImageError):
        pass
    raise HTTPException(404, "The run has no such file.")


def route(site: Site, signed_in: Any) -> Any:
    """The endpoint of `/run/{id}/{name}`. `signed_in(request)` says whether the request may see anything."""

    def serve(request: Request, id: str, name: str) -> Response:
        if not signed_in(request):
            raise HTTPException(401, "Sign in first.")
        return respond(site, id, name)

    return serve
