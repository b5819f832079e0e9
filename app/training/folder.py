"""Anybody's folder of meshes as training objects: files, captions, meshes at one place and scale.

captions.csv has a line a mesh: file,caption[,caption ...]; a first line "file,..." is a heading. Without it, and for
files that it leaves out, the file's name is the caption. A mesh that cannot be read is named and left out.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import UsageError, UserError, as_user_error
from app.export.mesh_files import KINDS, is_mesh_name
from app.export.mesh_read import read_here, with_area
from app.text import shown, tidy
from app.training.augment import article
from app.training.data import Mesh, Pack, hashed, joined, load_pack, pack_of, packs_in, split_families, unseen
from guidance.priors.known import plain

CAPTIONS = "captions.csv"
HEADINGS = ("file", "files", "filename", "mesh", "path")
HELD_OUT = 0.05
FEWEST = 20  # objects of which some are held out
Say = Callable[[str], None]


class Objects:
    """Training objects: `pack`, indices of it that are trained on and that are held out, and what was left out, a
    sentence each."""

    def __init__(self, pack: Pack, training: list[int], held_out: list[int], left_out: list[str]):
        self.pack, self.training, self.held_out, self.left_out = pack, training, held_out, left_out


def read_objects(folder: Path, say: Say) -> Objects:
    """The objects of a folder of meshes, or of one with the developers' packs. UsageError where there are none."""
    if names := packs_in(folder):
        pack = joined([load_pack(folder, name) for name in names])
        hidden = unseen(pack.rows)
        training, held_out = split_families(pack.rows)
        return Objects(pack, [i for i in training if i not in hidden], held_out, [])
    captions, left_out = read_captions(folder)
    for sentence in left_out:
        say(sentence)
    rows: list[dict[str, Any]] = []
    meshes: list[Mesh] = []
    for k, (path, words) in enumerate(captions.items()):
        try:
            meshes.append(centered(path))
            rows.append(row_of(path.relative_to(folder), words))
        except MemoryError:
            raise
        except Exception as e:  # whatever a damaged file makes the reader raise: the others go on
            left_out.append(f"Left out: {str(e) if isinstance(e, UserError) else broken(path, e)}")
            say(left_out[-1])
        if (k + 1) % 100 == 0:
            say(f"{k + 1} of {len(captions)} meshes read")
    if not rows:
        raise UsageError(
            f"No mesh in {shown(str(folder), 200)} can be trained on ({len(left_out)} left out, the last: "
            f"{left_out[-1].removeprefix('Left out: ')})"
        )
    return Objects(pack_of(rows, meshes), *split(rows), left_out)


def broken(path: Path, e: Exception) -> str:
    return f"{shown(str(path), 200)} cannot be read as a mesh ({as_user_error(e)})"


def files_in(folder: Path) -> list[Path]:
    """All meshes in a folder and in its folders. UsageError where it cannot be read or has none."""

    def refuse(e: OSError) -> None:
        raise UsageError(f"{shown(str(e.filename), 200)} cannot be read ({e.strerror}); give another --data.") from e

    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UsageError(f"{shown(str(folder), 200)} {what}; give --data a folder of meshes ({KINDS}).")
    found = [Path(top) / n for top, _, names in os.walk(folder, onerror=refuse) for n in names if is_mesh_name(n)]
    if not found:
        raise UsageError(f"There is no mesh in {shown(str(folder), 200)}; give --data a folder of {KINDS}.")
    return sorted(found)


def read_captions(folder: Path) -> tuple[dict[Path, list[str]], list[str]]:
    """The captions of every mesh in the folder that has one, and a sentence for each line and file left out.
    UsageError where none has."""
    files = files_in(folder)
    listed, left_out = listed_captions(folder)
    captions = {}
    for path in files:
        words = listed.get(os.path.normpath(path), []) or captions_of_name(path)
        if words:
            captions[path] = words
        else:
            left_out.append(f"Left out: {shown(str(path), 200)} has no caption, and no words in its name.")
    if not captions:
        raise UsageError(
            f"No mesh in {shown(str(folder), 200)} has a caption; write {CAPTIONS} (file,caption), or put words into "
            "the files' names."
        )
    return captions, left_out


def listed_captions(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """What captions.csv says, by path, and a sentence for each of its lines that names no mesh. UsageError where all
    of them are wrong, or the file cannot be read."""
    path, listed, left_out = folder / CAPTIONS, {}, []
    if not path.exists():
        return {}, []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        why = getattr(e, "strerror", None) or str(e)
        raise UsageError(f"{path} cannot be read ({why}); save it as CSV in UTF-8: file,caption.") from e
    for k, (name, *cells) in enumerate(lines):
        target = folder / name.strip()
        if not k and name.strip().lower() in HEADINGS and not target.is_file():
            continue
        if not target.is_file() or not is_mesh_name(target.name):
            what = "is not there" if not target.exists() else f"is no mesh ({KINDS})"
            left_out.append(f"Left out: {CAPTIONS} names {shown(name.strip(), 200)!r}, which {what}.")
            continue
        words = [w for cell in cells if (w := tidy(cell))]
        listed.setdefault(os.path.normpath(target), []).extend(words)
    if left_out and not listed:
        raise UsageError(
            f"None of the {len(left_out)} files that {path} names is a mesh there (the first: "
            f"{left_out[0].partition('names ')[2].rstrip('.')}); name files as they are called in its folder."
        )
    return listed, left_out


def captions_of_name(path: Path) -> list[str]:
    """red_mushroom-02.glb: "a red mushroom", and without the article. Nothing where no letter is in the name."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path.stem)
    words = tidy(re.sub(r"[\W_]+|\d+$", " ", re.sub(r"[\W\d_]+$", "", words))).lower()
    if not re.search(r"[^\W\d_]", words):
        return []
    name = plain(words)
    return [article(name), name]


def row_of(path: Path, captions: list[str]) -> dict[str, Any]:
    """What is known of an object, as the packs have it. Objects of one name are one family."""
    name = plain(captions[0])
    return {"id": str(path), "name": name, "captions": captions, "category": "mesh", "family": name}


def centered(path: Path) -> Mesh:
    """A file's mesh, centred by its bounding box, its farthest vertex at radius 1. UsageError as `read_here`."""
    mesh = with_area(read_here(path), path)
    vertices, faces = mesh.vertices.double().numpy(), mesh.faces.numpy()
    used = vertices[np.unique(faces)]
    middle = (used.min(0) + used.max(0)) / 2
    radius = np.linalg.norm(used - middle, axis=1).max()
    colors = mesh.vertex_colors().clamp(0, 1).numpy().astype(np.float32)
    placed = ((vertices - middle) / radius).astype(np.float32)
    return placed, mesh.normals.numpy(), colors, np.ascontiguousarray(faces, np.int32)


def split(rows: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """(training, held out). Whole families, those first whose names' hashes are small, as long as they are at most a
    twentieth of the objects; none where there are few objects."""
    size = Counter(r["family"] for r in rows)
    held, room = set(), HELD_OUT * len(rows) if len(rows) >= FEWEST else 0
    for family in sorted(size, key=hashed):
        if size[family] <= room:
            held.add(family)
            room -= size[family]
    indices = range(len(rows))
    return [i for i in indices if rows[i]["family"] not in held], [i for i in indices if rows[i]["family"] in held]
