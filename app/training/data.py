"""The training pack: 2,550 low-poly objects with captions (its README describes the format). A user does not have it,
and does not need it."""

from __future__ import annotations

import io
import json
import lzma
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pack:
    """Objects as arrays. Object i owns its slice of vertices and of faces (local indices) between two offsets."""

    rows: list[dict[str, Any]]
    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    colors: NDArray[np.float32]
    faces: NDArray[np.int32]
    vertex_offsets: NDArray[np.int32]
    face_offsets: NDArray[np.int32]

    def mesh(self, i: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        """(vertices, normals, colours, faces) of object i: views, not copies."""
        v = slice(self.vertex_offsets[i], self.vertex_offsets[i + 1])
        return (
            self.vertices[v],
            self.normals[v],
            self.colors[v],
            self.faces[self.face_offsets[i] : self.face_offsets[i + 1]],
        )


def _normals(v: NDArray[np.float32], f: NDArray[np.int32]) -> NDArray[np.float32]:
    """Angle-weighted vertex normals of all objects at once (global indices)."""
    out = np.zeros_like(v)
    p = v[f]
    cross = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    unit = cross / np.maximum(np.linalg.norm(cross, axis=-1, keepdims=True), 1e-12)
    for k in range(3):
        e0, e1 = p[:, (k + 1) % 3] - p[:, k], p[:, (k + 2) % 3] - p[:, k]
        cos = (e0 * e1).sum(-1) / np.maximum(np.linalg.norm(e0, axis=-1) * np.linalg.norm(e1, axis=-1), 1e-12)
        angle = np.arccos(np.clip(cos, -1, 1))
        for axis in range(3):
            out[:, axis] += np.bincount(f[:, k], angle * unit[:, axis], minlength=len(v))
    return out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)


def load_pack(folder: Path) -> Pack:
    """Read lowpoly.jsonl and lowpoly.npz.xz from `folder` (about 5 s, 350 MB in memory)."""
    rows = [json.loads(line) for line in (folder / "lowpoly.jsonl").read_text(encoding="utf-8").splitlines()]
    data = np.load(io.BytesIO(lzma.decompress((folder / "lowpoly.npz.xz").read_bytes())))
    vertices = (np.cumsum(data["vertex_deltas"].T, axis=0, dtype=np.int16) / np.float32(2047)).astype(np.float32)
    colors = (np.cumsum(data["color_deltas"].T, axis=0, dtype=np.uint8) / np.float32(255)).astype(np.float32)
    faces = np.cumsum(data["face_deltas"].reshape(-1), dtype=np.int16).view(np.uint16).reshape(-1, 3).astype(np.int32)
    vertex_offsets, face_offsets = data["vertex_offsets"], data["face_offsets"]
    base = np.repeat(vertex_offsets[:-1], np.diff(face_offsets))[:, None]
    return Pack(rows, vertices, _normals(vertices, faces + base), colors, faces, vertex_offsets, face_offsets)


def split_families(rows: list[dict[str, Any]], share: float = 0.05) -> tuple[list[int], list[int]]:
    """Indices of (training, validation) objects. Whole families are held out, chosen by a hash of the name: stable
    across versions."""
    import hashlib

    def held_out(family: str) -> bool:
        return int.from_bytes(hashlib.sha256(family.encode()).digest()[:4]) / 2**32 < share

    held = [held_out(r["family"]) for r in rows]
    return [i for i, h in enumerate(held) if not h], [i for i, h in enumerate(held) if h]


def family_weights(rows: list[dict[str, Any]], indices: list[int]) -> NDArray[np.float64]:
    """Sampling weights, ~ min(objects of the same last word, 20)^0.4 / sqrt(family size): one family must
    not fill the training, and what many packs have (chairs, swords) comes before what only one has."""
    size = Counter(rows[i]["family"] for i in indices)
    word = Counter(rows[i]["name"].split()[-1] for i in indices)
    w = np.array(
        [min(word[rows[i]["name"].split()[-1]], 20) ** 0.4 * size[rows[i]["family"]] ** -0.5 for i in indices]
    )
    return w / w.sum()
