"""Training objects as arrays, and the developers' packs of them: 4,798 low-poly objects with captions (their README
describes the format). A user does not have the packs, and does not need them."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.evaluate.nouns import eval100

PACKS = ("lowpoly", "more")
ARRAYS = ("vertices", "normals", "colors", "faces", "vertex_offsets", "face_offsets")


Mesh = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


@dataclass(frozen=True)
class Pack:
    """Objects as arrays. Object i owns its slice of vertices and of faces (local indices) between two offsets."""

    rows: list[dict[str, Any]]
    vertices: NDArray[np.float32]
    normals: NDArray[np.float32]
    colors: NDArray[np.float32]
    faces: NDArray[np.int32]
    vertex_offsets: NDArray[Any]
    face_offsets: NDArray[Any]

    def mesh(self, i: int) -> Mesh:
        """(vertices, normals, colours, faces) of object i: views, not copies."""
        v = slice(self.vertex_offsets[i], self.vertex_offsets[i + 1])
        return (
            self.vertices[v],
            self.normals[v],
            self.colors[v],
            self.faces[self.face_offsets[i] : self.face_offsets[i + 1]],
        )


def vertex_normals(v: NDArray[np.float32], f: NDArray[np.int32]) -> NDArray[np.float32]:
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


def load_pack(folder: Path, name: str = PACKS[0]) -> Pack:
    """Read NAME.jsonl and NAME.npz.xz from `folder` (about 5 s, 350 MB in memory). The first pack alone is what the
    evaluator was trained on, and what its figures are of."""
    data = np.load(io.BytesIO(lzma.decompress((folder / f"{name}.npz.xz").read_bytes())))
    vertices = (np.cumsum(data["vertex_deltas"].T, axis=0, dtype=np.int16) / np.float32(2047)).astype(np.float32)
    colors = (np.cumsum(data["color_deltas"].T, axis=0, dtype=np.uint8) / np.float32(255)).astype(np.float32)
    faces = np.cumsum(data["face_deltas"].reshape(-1), dtype=np.int16).view(np.uint16).reshape(-1, 3).astype(np.int32)
    vertex_offsets, face_offsets = data["vertex_offsets"], data["face_offsets"]
    base = np.repeat(vertex_offsets[:-1], np.diff(face_offsets))[:, None]
    rows = read_rows(folder, name)
    return Pack(rows, vertices, vertex_normals(vertices, faces + base), colors, faces, vertex_offsets, face_offsets)


def read_rows(folder: Path, name: str = PACKS[0]) -> list[dict[str, Any]]:
    """What a pack says of its objects."""
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def packs_in(folder: Path) -> list[str]:
    """Names of the packs that `folder` holds."""
    return [n for n in PACKS if all((folder / f"{n}.{end}").is_file() for end in ("jsonl", "npz.xz"))]


def joined(packs: Sequence[Pack]) -> Pack:
    """Several packs as one."""

    def ends(name: str) -> NDArray[np.int64]:
        counts = [np.diff(getattr(p, name)) for p in packs]
        return np.concatenate([[0], np.cumsum(np.concatenate(counts), dtype=np.int64)])

    arrays = {k: np.concatenate([getattr(p, k) for p in packs]) for k in ARRAYS[:4]}
    rows = [r for p in packs for r in p.rows]
    return Pack(rows, **arrays, vertex_offsets=ends("vertex_offsets"), face_offsets=ends("face_offsets"))


def pack_of(rows: list[dict[str, Any]], meshes: Sequence[Mesh]) -> Pack:
    """A pack of single meshes (vertices, normals, colours, faces)."""

    def ends(which: int) -> NDArray[np.int64]:
        return np.cumsum([0] + [len(m[which]) for m in meshes])

    vertices, normals, colors, faces = (np.concatenate(parts) for parts in zip(*meshes, strict=True))
    return Pack(rows, vertices, normals, colors, faces, ends(0), ends(3))


def save_arrays(pack: Pack, folder: Path) -> None:
    """Write the arrays of `pack` as files that several processes map at once."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(pack, name))


def open_arrays(folder: Path) -> Pack:
    """A pack without rows over `save_arrays`'s files, which stay on disk."""
    return Pack([], *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS))


def unseen(rows: list[dict[str, Any]]) -> set[int]:
    """Objects whose names have a noun of eval100's `heldout` and `near` prompts: no training may see them."""
    nouns = sorted({p.noun for p in eval100() if p.group in ("heldout", "near")})
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, nouns))})\b")
    return {i for i, r in enumerate(rows) if pattern.search(r["name"].lower())}


def hashed(family: str) -> float:
    """A number in [0, 1) that only a family's name decides: stable across versions."""
    return int.from_bytes(hashlib.sha256(family.encode("utf-8", "surrogateescape")).digest()[:4]) / 2**32


def split_families(rows: list[dict[str, Any]], share: float = 0.05) -> tuple[list[int], list[int]]:
    """Indices of (training, validation) objects. Whole families are held out, chosen by a hash of the name."""
    held = [hashed(r["family"]) < share for r in rows]
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
