"""Binary glTF 2.0: one textured mesh, written so that the same mesh gives the same bytes, and read back.

glTF's frame is ours (Y up, front to +Z, counter-clockwise faces), so nothing is rotated, and one unit is a metre. Base
colour is an sRGB PNG by the specification; the material is rough and not metallic, the same all over.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from app.export.unwrap import Unwrapped, check_mesh
from renderers.mesh import vertex_normals

ROUGHNESS, METALLIC = 0.9, 0.0  # of painted wood, stone, cloth: what low-poly objects look like
MATERIAL, IMAGE = "base_colour", "base_colour"  # no spaces: some readers cut a name at one
_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT, _UINT, _USHORT = 5126, 5125, 5123
_ARRAY, _ELEMENTS = 34962, 34963
_LINEAR, _TRILINEAR, _CLAMP = 9729, 9987, 33071
_TYPES = {
    5121: np.dtype("u1"),
    _USHORT: np.dtype("<u2"),
    _UINT: np.dtype("<u4"),
    _FLOAT: np.dtype("<f4"),
}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh with one atlas, as it stands in a GLB; tensors on the CPU.

    vertices (V, 3) float32. faces (F, 3) int32, counter-clockwise from outside. uv (V, 2) float32, (0, 0) the top left
    corner of the picture. normals (V, 3) float32, unit, outward. texture (H, W, 3) uint8, sRGB, row 0 at v = 0.
    colors (V, 3) uint8, sRGB: of a file that was painted by vertex; they multiply a texture of one white texel.
    """

    vertices: Tensor
    faces: Tensor
    uv: Tensor
    normals: Tensor
    texture: Tensor
    normal_map: Tensor | None = None
    """(H, W, 3) uint8, linear: normals in the frame of `tangents` (app/export/normals.py)."""
    tangents: Tensor | None = None
    """(V, 4) float32: unit, and w = +-1."""
    colors: Tensor | None = None


def to_linear(srgb: Tensor) -> Tensor:
    """sRGB-encoded values in [0, 1] to linear light (IEC 61966-2-1)."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Linear light in [0, 1] to sRGB-encoded values (IEC 61966-2-1)."""
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def check_textured(mesh: TexturedMesh) -> None:
    """ValueError, one sentence, for a mesh that is empty, not finite or inconsistent."""
    check_mesh(mesh.vertices, mesh.faces)
    for label, x in (("texture coordinates", mesh.uv), ("normals", mesh.normals)):
        if len(x) != len(mesh.vertices) or not bool(torch.isfinite(x).all()):
            raise ValueError(f"The mesh's {label} are not finite numbers, one for each of its vertices.")
    if mesh.texture.dtype != torch.uint8 or mesh.texture.ndim != 3 or mesh.texture.shape[2] != 3:
        raise ValueError(f"A texture is (H, W, 3) uint8, not {tuple(mesh.texture.shape)} {mesh.texture.dtype}.")
    if mesh.colors is not None and (len(mesh.colors) != len(mesh.vertices) or mesh.colors.dtype != torch.uint8):
        raise ValueError("The mesh's colours are not bytes, three for each of its vertices.")


def textured(unwrapped: Unwrapped, texture: Tensor) -> TexturedMesh:
    """The mesh of an atlas with its picture (S, S, 3) uint8, and normals that are smooth across the atlas's seams."""
    welded = torch.zeros(int(unwrapped.vmapping.max()) + 1, 3, device=unwrapped.vertices.device)
    welded[unwrapped.vmapping] = unwrapped.vertices
    faces = unwrapped.vmapping[unwrapped.faces.long()].int()
    normals = vertex_normals(welded, faces)
    # glTF asks for unit normals; a vertex of collapsed faces only is never seen, so any direction will do
    normals[normals.norm(dim=1) < 0.5] = torch.tensor([0.0, 1.0, 0.0], device=normals.device)
    parts = (unwrapped.vertices, unwrapped.faces, unwrapped.uv, normals[unwrapped.vmapping], texture)
    return TexturedMesh(*(x.detach().cpu() for x in parts))


def encode_png(picture: np.ndarray) -> bytes:
    """PNG bytes of (H, W, 3) uint8, with nothing in them but the pixels."""
    out = io.BytesIO()
    Image.fromarray(picture, "RGB").save(out, "PNG", compress_level=6, optimize=False)
    return out.getvalue()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, then move it into place: the file is there whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_glb(path: Path, mesh: TexturedMesh, name: str = "polymode", extras: Mapping[str, Any] | None = None) -> None:
    """Write `mesh` as one node called `name`; `extras` (prompt, seed, method: JSON values) goes into asset.extras.

    ValueError, one sentence, for a mesh that is empty, not finite or inconsistent; nothing is written then.
    """
    check_textured(mesh)
    positions = mesh.vertices.numpy().astype("<f4")
    blobs = [
        positions.tobytes(),
        mesh.normals.numpy().astype("<f4").tobytes(),
        mesh.uv.numpy().astype("<f4").tobytes(),
        mesh.faces.numpy().astype("<u4").tobytes(),
        encode_png(mesh.texture.numpy()),
    ]
    targets = [_ARRAY, _ARRAY, _ARRAY, _ELEMENTS, None]
    if mesh.colors is not None:  # the specification has them linear, and rows of four bytes or a multiple
        linear = (to_linear(mesh.colors.double() / 255) * 65535).round().numpy().astype("<u2")
        blobs.append(np.pad(linear, ((0, 0), (0, 1)), constant_values=65535).tobytes())
        targets.append(_ARRAY)
    if mesh.normal_map is not None:
        if mesh.tangents is None or mesh.tangents.shape != (len(positions), 4):
            raise ValueError("A normal map needs tangents, one for each vertex of the mesh.")
        blobs += [mesh.tangents.numpy().astype("<f4").tobytes(), encode_png(mesh.normal_map.numpy())]
        targets += [_ARRAY, None]
    binary, views = b"", []
    for blob, target in zip(blobs, targets, strict=True):
        view = {"buffer": 0, "byteOffset": len(binary), "byteLength": len(blob)}
        views.append(view if target is None else view | {"target": target})
        binary += blob + b"\0" * (-len(blob) % 4)
    count = len(positions)
    document = {
        "asset": {"version": "2.0", "generator": f"polymode {version('polymode')}"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [
            {
                "name": name,
                "primitives": [
                    {"attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}, "indices": 3, "material": 0}
                ],
            }
        ],
        "materials": [
            {
                "name": MATERIAL,
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "metallicFactor": METALLIC,
                    "roughnessFactor": ROUGHNESS,
                },
                "doubleSided": False,
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": _LINEAR, "minFilter": _TRILINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}],
        "images": [{"bufferView": 4, "mimeType": "image/png", "name": IMAGE}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _FLOAT,
                "count": count,
                "type": "VEC3",
                "min": positions.min(0).tolist(),
                "max": positions.max(0).tolist(),
            },
            {"bufferView": 1, "componentType": _FLOAT, "count": count, "type": "VEC3"},
            {"bufferView": 2, "componentType": _FLOAT, "count": count, "type": "VEC2"},
            {"bufferView": 3, "componentType": _UINT, "count": 3 * len(mesh.faces), "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    if mesh.colors is not None:
        accessors, attributes = document["accessors"], document["meshes"][0]["primitives"][0]["attributes"]
        attributes["COLOR_0"] = len(accessors)
        accessors.append(
            {"bufferView": 5, "componentType": _USHORT, "normalized": True, "count": count, "type": "VEC4"}
        )
    if mesh.normal_map is not None:
        accessors, view = document["accessors"], len(views) - 2
        document["meshes"][0]["primitives"][0]["attributes"]["TANGENT"] = len(accessors)
        accessors.append({"bufferView": view, "componentType": _FLOAT, "count": count, "type": "VEC4"})
        document["images"].append({"bufferView": view + 1, "mimeType": "image/png", "name": "normals"})
        document["textures"].append({"source": 1, "sampler": 0})
        document["materials"][0]["normalTexture"] = {"index": 1}
    if extras:
        document["asset"]["extras"] = dict(extras)
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<III", _MAGIC, 2, 12 + 8 + len(text) + 8 + len(binary))
    chunks = struct.pack("<II", len(text), _JSON) + text + struct.pack("<II", len(binary), _BIN) + binary
    write_atomically(path, head + chunks)


def read_glb(path: Path) -> TexturedMesh:
    """Read a GLB that `write_glb` wrote: one primitive with positions, normals, uv and an embedded base colour.

    ValueError, one sentence, for anything else.
    """
    document, binary = read_chunks(path)
    try:
        primitive = document["meshes"][0]["primitives"][0]
        attributes = primitive["attributes"]
        pbr = document["materials"][primitive["material"]]["pbrMetallicRoughness"]
        source = document["textures"][pbr["baseColorTexture"]["index"]]["source"]
        picture = _view(document, binary, document["images"][source]["bufferView"])
        colors = None
        if "COLOR_0" in attributes:
            linear = torch.from_numpy(_accessor(document, binary, attributes["COLOR_0"])[:, :3] / 65535)
            colors = (to_srgb(linear) * 255).round().to(torch.uint8)
        normal_map = tangents = None
        if "normalTexture" in document["materials"][primitive["material"]] and "TANGENT" in attributes:
            source = document["textures"][document["materials"][primitive["material"]]["normalTexture"]["index"]]
            data = _view(document, binary, document["images"][source["source"]]["bufferView"])
            normal_map = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))
            tangents = torch.from_numpy(_accessor(document, binary, attributes["TANGENT"]))
        return TexturedMesh(
            vertices=torch.from_numpy(_accessor(document, binary, attributes["POSITION"])),
            faces=torch.from_numpy(_accessor(document, binary, primitive["indices"]).astype(np.int32).reshape(-1, 3)),
            uv=torch.from_numpy(_accessor(document, binary, attributes["TEXCOORD_0"])),
            normals=torch.from_numpy(_accessor(document, binary, attributes["NORMAL"])),
            texture=torch.from_numpy(np.array(Image.open(io.BytesIO(picture)).convert("RGB"))),
            colors=colors,
            normal_map=normal_map,
            tangents=tangents,
        )
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged, or not a GLB that Polymode wrote ({reason}).") from error


def read_chunks(path: Path) -> tuple[dict[str, Any], bytes]:
    """The JSON document and the binary chunk of a GLB. ValueError, one sentence, if it is none or is cut short."""
    data = path.read_bytes()
    if len(data) < 20 or struct.unpack_from("<II", data) != (_MAGIC, 2):
        raise ValueError(f"{path} is not a binary glTF 2.0 file.")
    length, kind = struct.unpack_from("<II", data, 12)
    if struct.unpack_from("<I", data, 8)[0] != len(data) or kind != _JSON or 28 + length > len(data):
        raise ValueError(f"{path} is cut short or damaged.")
    size, kind = struct.unpack_from("<II", data, 20 + length)
    if kind != _BIN or 28 + length + size > len(data):
        raise ValueError(f"{path} is cut short or damaged.")
    try:
        document = json.loads(data[20 : 20 + length])
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    return document, data[28 + length : 28 + length + size]


def _view(document: dict[str, Any], binary: bytes, index: int) -> bytes:
    view = document["bufferViews"][index]
    start = view.get("byteOffset", 0)
    return binary[start : start + view["byteLength"]]


def _accessor(document: dict[str, Any], binary: bytes, index: int) -> np.ndarray:
    """(count,) or (count, C): a tightly packed accessor, copied."""
    accessor = document["accessors"][index]
    width = _WIDTHS[accessor["type"]]
    data = _view(document, binary, accessor["bufferView"])
    flat = np.frombuffer(data, _TYPES[accessor["componentType"]], accessor["count"] * width).copy()
    return flat.reshape(-1, width) if width > 1 else flat
