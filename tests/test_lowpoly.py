"""The training packs' reader, on packs written here in the documented format, and what is made of their objects."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from app.training.augment import PALETTE, SYNONYMS, dominant_group, mirrored, reworded
from app.training.augment import recolored as recoloured
from app.training.calibrate import known_names
from app.training.data import Pack, family_weights, load_pack, open_arrays, save_arrays, split_families, unseen
from app.training.folder import read_objects
from app.training.photograph import photograph
from app.training.rendering import draw
from tests.objects import OBJECTS


def write_pack(folder: Path, file: str, name: str = "") -> None:
    """Three objects made in code, twenty times over in families of their own, delta-coded as the packs are."""
    meshes = [m for _ in range(20) for m in OBJECTS.values()]
    rows = [
        {"family": f"us:{name}{words}-{k}", "captions": [words, words.split()[-1]], "id": f"{file}-{k}-{words}"}
        | {"name": name or words.split()[-1], "category": "toy"}
        for k in range(20)
        for words in OBJECTS
    ]
    v = np.concatenate([np.round(m[0] * 2047).astype(np.int16) for m in meshes])
    c = np.concatenate([np.round(m[2] * 255).astype(np.uint8) for m in meshes])
    f = np.concatenate([m[3].astype(np.uint16).reshape(-1) for m in meshes])
    arrays = {
        "vertex_deltas": np.diff(v, axis=0, prepend=np.zeros((1, 3), np.int16)).T,
        "color_deltas": np.diff(c, axis=0, prepend=np.zeros((1, 3), np.uint8)).T,
        "face_deltas": np.diff(f.view(np.int16), prepend=np.int16(0)).reshape(-1, 3),
        "vertex_offsets": np.cumsum([0] + [len(m[0]) for m in meshes]).astype(np.int32),
        "face_offsets": np.cumsum([0] + [len(m[3]) for m in meshes]).astype(np.int32),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (folder / f"{file}.npz.xz").write_bytes(lzma.compress(buffer.getvalue(), preset=0))
    (folder / f"{file}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packs; the second's objects are all called couches."""
    folder = tmp_path_factory.mktemp("pack")
    write_pack(folder, "lowpoly")
    write_pack(folder, "more", "two-seat couch")
    return folder


@pytest.fixture(scope="module")
def pack(folder: Path) -> Pack:
    return load_pack(folder)


def test_meshes_come_back_with_normals(pack: Pack) -> None:
    for i, mesh in enumerate(OBJECTS.values()):
        v, n, c, f = pack.mesh(3 + i)
        np.testing.assert_allclose(v, mesh[0], atol=1 / 2047)
        np.testing.assert_allclose(c, mesh[2], atol=1 / 255)
        np.testing.assert_array_equal(f, mesh[3])
        assert np.median((n * mesh[1]).sum(1)) > 0.99


def test_whole_families_are_held_out_and_large_ones_weigh_less(pack: Pack) -> None:
    training, held = split_families(pack.rows, share=0.2)
    assert held and not {pack.rows[i]["family"] for i in training} & {pack.rows[i]["family"] for i in held}
    assert sorted(training + held) == list(range(60))
    rows = [{"family": "big", "name": "oak"}] * 4 + [{"family": "small", "name": "pine"}]
    weights = family_weights(rows, [0, 1, 2, 3, 4])
    assert weights[4] == pytest.approx(2 * weights[0] / 4**0.4) and weights.sum() == pytest.approx(1)


def test_both_packs_train_split_by_family_without_what_eval100_calls_unseen(folder: Path, tmp_path: Path) -> None:
    objects = read_objects(folder, print)
    rows = objects.pack.rows
    assert len(rows) == 120 and rows[0]["id"].startswith("lowpoly") and rows[60]["id"].startswith("more")
    for i in (1, 61):
        for mine, theirs in zip(
            objects.pack.mesh(i), load_pack(folder, rows[i]["id"].split("-")[0]).mesh(1), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
    assert unseen(rows) == set(range(60, 120)), "couch is a word of the near prompts"
    assert objects.training == [i for i in split_families(rows)[0] if i < 60]
    assert objects.held_out == split_families(rows)[1]
    assert not unseen([{"name": "couching"}, {"name": "cowboy"}]) and unseen([{"name": "Small Rowboat"}]) == {0}
    save_arrays(objects.pack, tmp_path / "arrays")
    mapped = open_arrays(tmp_path / "arrays")
    assert all(np.array_equal(a, b) for a, b in zip(mapped.mesh(119), objects.pack.mesh(119), strict=True))
    assert known_names(folder)[0] == ["car", "mushroom", "tree"], "what is held back is no known name"


def test_changed_objects_are_what_their_captions_say(pack: Pack) -> None:
    changed = 0
    for index in range(3):
        mesh = pack.mesh(index)
        v, n, c, f = mesh
        mv, mn, _, mf = mirrored(mesh)
        np.testing.assert_array_equal(mv, v * [-1, 1, 1])
        assert mirrored(mirrored(mesh))[0].tolist() == v.tolist()

        # outward normals stay outward: geometric and stored normals agree as often as before
        def outward(v, n, f):
            return float((np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]) * n[f].sum(1)).sum(1).mean())

        assert outward(mv, mn, mf) == pytest.approx(outward(v, n, f), rel=1e-4)
        group, share = dominant_group(mesh)
        other = recoloured(mesh, list(PALETTE)[4])
        if share < 0.4:
            assert other is None
            continue
        assert other is not None
        blue, changed = other[2][group], changed + 1
        assert (blue[:, 2] > blue[:, 0] + 0.2).all() and np.array_equal(other[2][~group], c[~group])
    assert changed


def test_captions_in_other_words_leave_out_the_words_that_eval100_asks_about() -> None:
    near = "couch automobile fir fridge tombstone doughnut toadstool cottage starship hatchet cask wigwam".split()
    assert not set(near) & {word for options in SYNONYMS.values() for word in options}
    assert reworded("a red sofa", 0.5, 0.0) == "a red sofa"
    assert reworded("a red sofa", 0.75, 0.0) == "red sofa"
    assert reworded("a red sofa", 0.9, 0.0) == "a red settee"
    assert reworded("a sofa bed frame", 0.9, 0.0) == "a sofa bed frame"


def test_photographs_keep_the_cut_out_and_lose_the_normals(pack: Pack) -> None:
    front = np.zeros((4, 1), np.float32)
    frames = draw([pack.mesh(i) for i in (0, 1, 2, 0)], front, front, 64)
    photo = photograph(frames, torch.Generator().manual_seed(2))
    assert torch.equal(photo[:, 3], frames[:, 3]) and (photo[:, 4:] == 0.5).all()
    outside = frames[:, 3:4] == 0
    assert (photo[:, :3][outside.expand(-1, 3, -1, -1)] == 0.5).all() and photo.min() >= 0 and photo.max() <= 1
    assert (photo[:, :3] - frames[:, :3]).abs().mean() > 0.01, "light changes what is seen"
    assert not torch.equal(photo, photograph(frames, torch.Generator().manual_seed(3)))
