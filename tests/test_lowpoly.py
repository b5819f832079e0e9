"""The training pack's reader, on a pack written here in the documented format, and the trainer's source over it."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from app.training.augment import PALETTE, SYNONYMS, dominant_group, mirrored, reworded
from app.training.data import Pack, family_weights, load_pack, split_families
from app.training.photograph import photograph
from app.training.prior import Augment, PackSource
from guidance.priors.text import TextEncoder
from tests.objects import OBJECTS


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Three objects made in code, twenty times over in families of their own, delta-coded as the pack is."""
    folder = tmp_path_factory.mktemp("pack")
    meshes = [m for _ in range(20) for m in OBJECTS.values()]
    rows = [
        {"family": f"us:{name}-{k}", "captions": [name, name.split()[-1]], "id": f"{k}-{name}"}
        | {"name": name.split()[-1], "category": "toy"}
        for k in range(20)
        for name in OBJECTS
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
    (folder / "lowpoly.npz.xz").write_bytes(lzma.compress(buffer.getvalue(), preset=0))
    (folder / "lowpoly.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
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


def test_the_source_draws_training_objects_with_their_own_captions(pack: Pack, tmp_path: Path) -> None:
    plain = Augment(recolor=0, mirror=0, reword=False)
    source = PackSource(pack, TextEncoder(), tmp_path / "captions.safetensors", plain)
    again = PackSource(pack, TextEncoder(), tmp_path / "captions.safetensors")
    assert source.embeddings.keys() == again.embeddings.keys()
    assert all(torch.equal(source.embeddings[c], again.embeddings[c]) for c in source.embeddings)
    g = torch.Generator().manual_seed(0)
    frames, captions = source.draw(6, torch.zeros(6, 2), torch.zeros(6, 2), 32, g)
    assert frames.shape == (12, 7, 32, 32)
    training = {c for i in source.training for c in pack.rows[i]["captions"]}
    assert set(captions) <= training
    names = list(OBJECTS)
    for k, caption in enumerate(captions):
        i = next(j for j, name in enumerate(names) if caption in (name, name.split()[-1]))
        own = source._render([pack.mesh(i)], torch.zeros(1, 2), torch.zeros(1, 2), 32)
        torch.testing.assert_close(frames[2 * k : 2 * k + 2], own)
    text = source.text([*captions[:5], "", "words it has not seen"])
    assert text.mask[5].sum() == 2, "a dropped text is [CLS] [SEP]"
    own = source.embeddings[captions[0]]
    assert torch.equal(own.float(), text.tokens[0, : len(own)]) and int(text.mask[0].sum()) == len(own)


def test_changed_objects_are_what_their_captions_say(pack: Pack, tmp_path: Path) -> None:
    source = PackSource(pack, TextEncoder(), tmp_path / "c.safetensors", Augment(recolor=1, mirror=1, reword=False))
    for index in range(3):
        v, n, c, f = pack.mesh(index)
        (mv, mn, mc, mf), caption = source._object(index, [0, 0, 4 / len(PALETTE) + 1e-6, 0, 0, 0, 0])
        np.testing.assert_array_equal(mv, v * [-1, 1, 1])
        assert mirrored((mv, mn, mc, mf))[0].tolist() == v.tolist()

        # outward normals stay outward: geometric and stored normals agree as often as before
        def outward(v, n, f):
            return float((np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]) * n[f].sum(1)).sum(1).mean())

        assert outward(mv, mn, mf) == pytest.approx(outward(v, n, f), rel=1e-4)
        group, share = dominant_group((v, n, c, f))
        if share < 0.4:
            assert caption in pack.rows[index]["captions"]
            continue
        assert caption == f"a blue {pack.rows[index]['name']}"
        blue = mc[group]
        assert (blue[:, 2] > blue[:, 0] + 0.2).all() and np.array_equal(mc[~group], c[~group])


def test_captions_in_other_words_leave_out_the_words_that_eval100_asks_about() -> None:
    near = "couch automobile fir fridge tombstone doughnut toadstool cottage starship hatchet cask wigwam".split()
    assert not set(near) & {word for options in SYNONYMS.values() for word in options}
    assert reworded("a red sofa", 0.5, 0.0) == "a red sofa"
    assert reworded("a red sofa", 0.75, 0.0) == "red sofa"
    assert reworded("a red sofa", 0.9, 0.0) == "a red settee"
    assert reworded("a sofa bed frame", 0.9, 0.0) == "a sofa bed frame"


def test_photographs_keep_the_cut_out_and_lose_the_normals(pack: Pack, tmp_path: Path) -> None:
    source = PackSource(pack, TextEncoder(), tmp_path / "captions.safetensors")
    frames, _ = source.draw(4, torch.zeros(4, 1), torch.zeros(4, 1), 64, torch.Generator().manual_seed(1))
    photo = photograph(frames, torch.Generator().manual_seed(2))
    assert torch.equal(photo[:, 3], frames[:, 3]) and (photo[:, 4:] == 0.5).all()
    outside = frames[:, 3:4] == 0
    assert (photo[:, :3][outside.expand(-1, 3, -1, -1)] == 0.5).all() and photo.min() >= 0 and photo.max() <= 1
    assert (photo[:, :3] - frames[:, :3]).abs().mean() > 0.01, "light changes what is seen"
    assert not torch.equal(photo, photograph(frames, torch.Generator().manual_seed(3)))
