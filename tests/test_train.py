"""The parts of `polymode train`: folders, captions, sets, batches, steps. tests/test_train_process.py trains."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend

from app.commands import parse
from app.errors import CollapseError, UserError
from app.training.augment import PALETTE
from app.training.augment import mirrored as mirrored_mesh
from app.training.batches import KINDS, Drawer, mirrored, on_device
from app.training.course import course, rounds
from app.training.folder import captions_of_name, centered, read_captions, read_objects, split
from app.training.jpeg import jpeg
from app.training.options import Mix, Train
from app.training.photograph import _jpeg
from app.training.rendering import LEVELS, Pool, draw
from app.training.sets import FRAMES, Sets
from app.training.speed import ATTENTION, bf16_norms
from app.training.texts import Texts, wording, wordings
from app.training.trainer import Training, _step, begin, read_sums
from guidance.prior import NoiseSchedule
from guidance.priors.embedded_network import IS_PICTURE
from tests.objects import OBJECTS, car
from tests.tiny import text_encoder
from tests.training import toy_pack, write_meshes

CPU = torch.device("cpu")


def full_pool(sets: Sets, size: int = 64) -> Pool:
    """A pool with all its sets, drawn here."""
    pool = Pool(sets, size, CPU, torch.zeros(0), None)  # pyright: ignore[reportArgumentType]
    pack = toy_pack()
    from app.training.augment import recolored

    for chunk in sets.chunks:
        meshes = [pack.mesh(i) for i in sets.objects(chunk)]
        changed = [m if c is None else recolored(m, c) for m, c in zip(meshes, sets.colors(chunk), strict=True)]
        frames = draw([c or m for c, m in zip(changed, meshes, strict=True)], *sets.views(chunk), size)
        pool._keep(chunk, (frames * LEVELS + 0.5).byte().flatten(1), [c is not None for c in changed])
    assert pool.complete and pool.canonical
    return pool


@pytest.fixture(scope="module")
def sets() -> Sets:
    return Sets(toy_pack().rows, [0, 1, 2], random=3, recolored=2, seed=5)


@pytest.fixture(scope="module")
def drawer(sets: Sets) -> Drawer:
    return Drawer(full_pool(sets), Texts(text_encoder(), CPU), Mix())


# --- folders ---


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red_mushroom-02.glb", "red mushroom"),
        ("RedMushroom2.obj", "red mushroom"),
        ("old oak tree (1).ply", "old oak tree"),
        ("A_Car.stl", "car"),
        ("007.glb", None),
        ("3d_printer.glb", "3d printer"),
        ("stol_стол.glb", "stol стол"),
    ],
)
def test_a_files_name_is_its_caption(name: str, words: str | None) -> None:
    captions = captions_of_name(Path(name))
    assert captions == ([] if words is None else [("an " if words[0] in "aeiou" else "a ") + words, words])


def test_captions_csv_names_files_and_what_it_leaves_out_is_said(tmp_path: Path) -> None:
    write_meshes(tmp_path, 4)
    names = sorted(p.name for p in tmp_path.iterdir())
    lines = ["file,caption,caption", f'{names[0]},"a shiny, round thing",a ball', "gone.glb,a ghost", f"{names[1]},"]
    (tmp_path / "captions.csv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    captions, left_out = read_captions(tmp_path)
    assert captions[tmp_path / names[0]] == ["a shiny, round thing", "a ball"]
    assert captions[tmp_path / names[1]] == captions_of_name(Path(names[1])), "an empty caption is none"
    assert len(captions) == 4 and len(left_out) == 1 and "'gone.glb'" in left_out[0]


@pytest.mark.parametrize(
    ("files", "argv", "code", "said"),
    [
        ({}, "", 2, "There is no mesh in"),
        (None, "", 2, "does not exist; give --data"),
        ({"01.glb": b"x"}, "", 2, "has a caption; write captions.csv"),
        ({"a_box.glb": b"junk"}, "", 2, "can be trained on (1 left out"),
        ({"a_box.glb": b"x", "captions.csv": b"b.glb,a box\nc.glb,a cone\n"}, "", 2, "None of the 2 files"),
        ({"a_box.glb": b"x", "captions.csv": b"\xff\xfe\x00"}, "", 2, "save it as CSV in UTF-8"),
        ({"a_box.glb": b"x"}, "--steps 0", 2, "--steps is 1 or more"),
        ({"a_box.glb": b"x"}, "--device tpu", 2, "--device is one of auto, cpu, cuda, not 'tpu'"),
        ({"a_box.glb": b"x"}, "--minutes nan", 2, "--minutes is"),
        ({"a_box.glb": b"x"}, "--channels 20 40", 2, "multiples of 16"),
        ({"a_box.glb": b"x"}, "--mix.recolor 2", 2, "--mix.recolor is from 0 to 1"),
        ({"a_box.glb": b"x"}, "--init embedded --channels 16 32", 2, "leave --channels out, or --init"),
        ({"a_box.glb": b"x"}, "--init nobody", 2, "Unknown prior 'nobody'"),
        ({"a_box.glb": b"x"}, "--init ./nowhere", 3, "config.json is missing"),
        ({"a_box.glb": b"x"}, "--out FULL", 2, "is not empty, and holds no training"),
        ({"a_box.glb": b"x"}, "--out DAMAGED", 3, "training.json is damaged"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    tmp_path: Path, files: dict[str, bytes] | None, argv: str, code: int, said: str
) -> None:
    from app.training.command import run_train

    data = tmp_path / "data"
    for name, content in (files or {}).items():
        data.mkdir(exist_ok=True)
        (data / name).write_bytes(content)
    if files == {}:
        data.mkdir()
    for name, file in (("FULL", "mine.txt"), ("DAMAGED", "training.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{", encoding="utf-8")
    words = [str(tmp_path / w) if w.isupper() else w for w in argv.split()]
    out = [] if "--out" in argv else ["--out", str(tmp_path / "out")]
    asked = parse(["train", "--data", str(data), "--device", "cpu", *out, *words])
    assert isinstance(asked, Train)
    with pytest.raises(UserError) as e:
        run_train(asked)
    sentence = str(e.value)
    assert e.value.exit_code == code and said in sentence and "\n" not in sentence, sentence
    assert (tmp_path / "FULL" / "mine.txt").is_file()


def test_meshes_are_read_as_the_packs_have_them_and_broken_ones_are_named(tmp_path: Path) -> None:
    write_meshes(tmp_path, 3)
    (tmp_path / "a_broken_thing.glb").write_bytes(b"glTF junk")
    said: list[str] = []
    objects = read_objects(tmp_path, said.append)
    assert len(objects.pack.rows) == 3 and objects.training == [0, 1, 2] and not objects.held_out
    assert len(objects.left_out) == 1 and "a_broken_thing.glb" in objects.left_out[0] and said == objects.left_out
    for i, row in enumerate(objects.pack.rows):
        v, n, c, f = objects.pack.mesh(i)
        assert np.linalg.norm(v, axis=1).max() == pytest.approx(1, abs=1e-5)
        assert np.abs(v.max(0) + v.min(0)).max() < 1e-5 and f.max() < len(v) and len(n) == len(c) == len(v)
        assert np.abs(np.linalg.norm(n, axis=1) - 1).max() < 1e-4
        assert row["captions"] == captions_of_name(Path(row["id"]))
    ply = objects.pack.mesh(2)[2]  # glTF's colours are linear, and trimesh writes these as they are
    np.testing.assert_allclose(ply, np.tile(PALETTE["red"], (len(ply), 1)), atol=1 / 254)
    again = centered(sorted(tmp_path.glob("red_ball*"))[0])
    np.testing.assert_array_equal(again[0], objects.pack.mesh(0)[0])


def test_a_twentieth_of_a_folder_is_held_out_in_whole_families_and_nothing_of_a_few() -> None:
    rows = [{"family": f"thing {i // 2}"} for i in range(100)]
    training, held = split(rows)
    assert len(held) == 4 and sorted(training + held) == list(range(100))
    assert not {rows[i]["family"] for i in held} & {rows[i]["family"] for i in training}
    assert split(rows[:19]) == (list(range(19)), [])
    assert split([{"family": "one"}] * 100) == (list(range(100)), []), "nothing to train on would be left"


# --- sets and batches ---


def test_sets_are_numbered_without_gaps_and_canonical_ones_come_first(sets: Sets) -> None:
    numbers = [n for c in sets.chunks for n in range(c.first, c.first + c.count)]
    assert sorted(numbers) == list(range(sets.number)) and sets.number == 3 * (1 + 3) + 3 * 2
    assert numbers[:3] == [0, 1, 2] and sets.chunks[0].kind == "canonical"
    azimuth, elevation = sets.views(sets.chunks[0])
    np.testing.assert_allclose(np.degrees(azimuth[0]), [0, 90, 180, 270, 0], atol=1e-4)
    np.testing.assert_allclose(np.degrees(elevation[0]), [15, 15, 15, 15, 80], atol=1e-4)
    one, other = sets.again(1), sets.again(2)
    assert {c.kind for c in one} == {"random", "recolored"} and all(c.round % 2 for c in one if c.kind == "recolored")
    assert not np.allclose(sets.views(one[0])[0], sets.views(other[0])[0]), "other orbits each time"
    again = Sets(sets.rows, sets.training, 3, 2, 5)
    assert all(np.array_equal(sets.views(c)[0], again.views(c)[0]) for c in sets.chunks)


def test_batches_follow_the_mix_and_are_drawn_from_the_objects_asked_for(drawer: Drawer) -> None:
    rng = np.random.default_rng(0)
    draws = [drawer.draw(rng, 24) for _ in range(1500)]
    share = {k: sum(d.kind == k for d in draws) / len(draws) for k in KINDS}
    assert all(abs(share[k] - getattr(Mix(), k)) < 0.05 for k in KINDS), share
    for d in draws:
        n, v = d.frame.shape
        assert n * v <= 24 and (d.t[:, : d.pictures] == 0).all() and d.t.max() <= 999
        object_of = drawer.pool.sets.number
        assert d.frame.min() >= 0 and d.frame.max() < object_of * FRAMES
        if d.kind == "canonical":
            turned = np.degrees(d.azimuth[:, :4]) % 360
            np.testing.assert_allclose(turned, np.tile([0, 90, 180, 270], (n, 1)), atol=1e-3)
    assert np.mean(np.concatenate([d.t[:, d.pictures :].reshape(-1) for d in draws])) > 550, "skewed towards noise"
    assert any(d.geometry is not None and not d.geometry.any() for d in draws), "colours for a given shape"
    big = {drawer.draw(rng, 780).frame.size for _ in range(60)}
    assert big == {780}, "one shape for all kinds, on a GPU"


def test_a_frame_of_a_batch_is_its_object_from_its_camera_mirrored_and_photographed_too(drawer: Drawer) -> None:
    rng, g = np.random.default_rng(1), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(60):
        d = drawer.draw(rng, 12)
        b = on_device(d, drawer.pool, drawer.texts, False, g)
        assert b.x.shape[1:] == (7, 64, 64) and b.x.abs().max() <= 1 + 1e-6
        pictures = b.x[~b.target]
        assert (pictures[:, 4:].abs() < 1e-6).all() and b.camera[~b.target][:, IS_PICTURE].all()
        assert not b.camera[b.target][:, IS_PICTURE].any() and (b.t[~b.target] == 0).all()
        for k in range(d.frame.shape[0]):
            if d.relative or d.frame[k, 0] // FRAMES >= drawer.pool.sets.base("recolored", 0):
                continue
            mesh = OBJECTS[list(OBJECTS)[int(d.frame[k, 0]) // FRAMES % 3]]
            mesh = mirrored_mesh(mesh) if d.mirror[k] else mesh
            own = draw([mesh], d.azimuth[k : k + 1], d.elevation[k : k + 1], 64) * 2 - 1
            got = b.x.unflatten(0, d.frame.shape)[k]
            for j in range(d.pictures, d.frame.shape[1]):
                off = (got[j] - own[j]).abs()
                assert (off > 0.05).float().mean() < 0.02, "but for edges, which rasterize to the left or right"
                seen.add((d.kind, bool(d.mirror[k])))
    assert {(k, m) for k in KINDS for m in (False, True)} <= seen
    small = on_device(drawer.draw(rng, 12), drawer.pool, drawer.texts, True, g)
    assert small.x.shape[1:] == (7, 32, 32)


def test_mirrored_frames_are_those_of_the_mirrored_object() -> None:
    azimuth = np.array([[0.7]], np.float32)
    elevation = np.array([[0.3]], np.float32)
    one = mirrored(draw([car()], azimuth, elevation, 64) * 2 - 1)
    other = draw([mirrored_mesh(car())], -azimuth, elevation, 64) * 2 - 1
    assert ((one - other).abs() > 0.05).float().mean() < 0.01


def test_wordings_are_what_reworded_chooses_from() -> None:
    from app.training.augment import reworded

    rng = np.random.default_rng(0)
    u, v = rng.random(500), rng.random(500)
    for caption in ("a red car", "a spaceship", "a wooden thing"):
        mine = np.array(wordings(caption))[wording(u, v)]
        assert list(mine) == [reworded(caption, a, b) for a, b in zip(u, v, strict=True)]


def test_an_embedding_does_not_depend_on_what_was_asked_for_before() -> None:
    names = [f"a {w} box" for w in "red green blue tall old wooden small huge".split()]
    one, other = Texts(text_encoder(), CPU), Texts(text_encoder(), CPU)
    for t in (one, other):
        for n in names * 5 + [f"thing {k}" for k in range(40)]:
            t.add(n)
    one.rows(np.array([40]))
    a = one.embedding(torch.from_numpy(one.rows(np.array([3, 0]))), 2)
    b = other.embedding(torch.from_numpy(other.rows(np.array([3, 0]))), 2)
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.mask, b.mask) and len(a.mask) == 4
    direct = text_encoder()([names[3], names[0]])
    torch.testing.assert_close(a.tokens[::2], direct.tokens, atol=0.02, rtol=0.01)


def test_the_gpus_jpeg_is_pillows() -> None:
    frames = draw(
        [car()] * 4, np.array([[0.3], [1.2], [2.9], [4.0]], np.float32), np.full((4, 1), 0.4, np.float32), 64
    )
    rgb = (frames[:, :3] * 255).round()
    quality = torch.tensor([40, 60, 80, 95])
    mine = jpeg(rgb, quality)
    pixels = rgb.permute(0, 2, 3, 1).numpy().astype(np.uint8)
    files = [_jpeg(p, int(q)) for p, q in zip(pixels, quality, strict=True)]
    theirs = torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2).float()
    assert (mine - theirs).abs().mean() < 0.5 < (rgb - theirs).abs().mean(), "levels of 255"


# --- the course and its steps ---


def asked(**more: object) -> Train:
    return Train(Path("data"), Path("out"), **more)  # pyright: ignore[reportArgumentType]


def test_rate_and_ema_follow_the_share_that_is_done() -> None:
    how = course(asked(minutes=10.0), CPU, (16, 32))
    assert how.share(5, 300.0) == 0.5 and how.rate(0.5) == how.rate(0.3) == 1e-3
    assert how.rate(0.0) < 1e-4 and how.rate(1.0) == pytest.approx(1e-5)
    assert how.ema_decay(10_000, 0.03) == pytest.approx(0.5) and how.ema_decay(0, 0.001) == 0.1
    by_step = course(asked(steps=200, init="embedded"), CPU, (16, 32))
    assert by_step.share(50, 1e9) == 0.25 and by_step.learning_rate == 3e-4 and by_step.small_share == 0


def test_as_many_sets_are_rendered_as_fit_into_memory() -> None:
    assert rounds(asked(), 30, 30, CPU) == (32, 12) and rounds(asked(), 30, 0, CPU) == (32, 0)
    random, recolored = rounds(asked(), 4400, 4000, CPU)
    assert 2 <= random < 6 and 2 <= recolored < 6
    assert rounds(asked(random_sets=7, recolored_sets=0), 4400, 4000, CPU) == (7, 0)


def test_a_step_that_is_not_finite_changes_nothing_and_many_end_the_training(drawer: Drawer, tmp_path: Path) -> None:
    how = course(asked(steps=50, batch=2, small_share=0.9, precision="float32"), CPU, (16, 32))
    run: Training = begin(how, tmp_path, drawer.pool, drawer, drawer.texts, None, print)
    _step(run, 0.0, 0.02)
    before = {k: v.clone() for k, v in run.state.net.state_dict().items()}
    good, run.schedule = run.schedule, NoiseSchedule(torch.full((1000,), math.nan, dtype=torch.float64))
    for _ in range(10):
        _step(run, 0.1, 0.02)
    assert all(torch.equal(v, before[k]) for k, v in run.state.net.state_dict().items())
    with pytest.raises(CollapseError, match="lower --learning-rate"):
        read_sums(run)
    assert sum(run.skipped) == 10 and math.isfinite(run.loss)
    run.schedule = good
    _step(run, 0.1, 0.02)
    assert any(not torch.equal(v, before[k]) for k, v in run.state.net.state_dict().items())


def test_bf16_normalisations_differ_from_autocasts_by_rounding_alone_and_never_take_cudnns_attention() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(4, 16, 3), torch.nn.GroupNorm(4, 16), torch.nn.Flatten(2))
    net.append(torch.nn.LayerNorm(36))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def out() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)

    plain = out()
    bf16_norms(net)
    quick = out()
    assert quick.dtype == torch.bfloat16
    torch.testing.assert_close(quick.float(), plain.float(), atol=0.05, rtol=0.02)
    torch.testing.assert_close(net(x), net(x.bfloat16().float()), atol=0.05, rtol=0.05)
    assert SDPBackend.CUDNN_ATTENTION not in ATTENTION and SDPBackend.MATH in ATTENTION


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    from app.training.command import alone_in

    with alone_in(tmp_path), pytest.raises(UserError, match="Another process trains in"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass
