"""The evaluator's parts that need no network: prompts, ranks, colour, statistics, cameras, GLB reading."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from app.errors import CollapseError, UsageError
from app.evaluate.color import PROTOTYPES, color_is_right, name_colors, read_color
from app.evaluate.measure import METRICS, Record, table
from app.evaluate.nouns import (
    COLOR_WORDS,
    SYNONYMS,
    VIEW_DISTINCT,
    Prompt,
    class_of,
    class_scores,
    classes,
    eval100,
    parse_prompts,
    prompt_of,
    rank_of,
    split_prompt,
)
from app.evaluate.report import text_table
from app.evaluate.statistics import interval_text, kernel_distance, mean_interval, nearest, psnr, ssim
from app.evaluate.views import asset_frames, coloured_frames, front_and_back, own_cameras, prior_cameras, unit
from app.training.labels import front_kind, has_front, label, split
from app.training.recolor import CSS, hue_matrix, random_color_maps, repaint
from renderers.cameras import make_cameras
from tests.objects import OBJECTS, car, mushroom


def test_eval100_has_its_hundred_prompts_by_group():
    prompts = eval100()
    count = {g: sum(p.group == g for p in prompts) for g in ("train", "recolour", "heldout", "near")}
    assert count == {"train": 40, "recolour": 30, "heldout": 15, "near": 15}
    assert all((p.color is not None) == (p.group == "recolour") for p in prompts)
    assert all(p.color in (None, *COLOR_WORDS) for p in prompts)


def test_recolour_and_near_prompts_ask_for_the_class_of_a_train_prompt():
    prompts = eval100()
    train = {p.kind for p in prompts if p.group == "train"}
    assert all(p.kind in train for p in prompts if p.group == "recolour")
    outside = {p.text for p in prompts if p.group == "near" and p.kind not in train}
    assert outside == {"an automobile", "a lantern on a pole"}
    assert not {p.kind for p in prompts if p.group == "heldout"} & train


@pytest.mark.parametrize(
    ("text", "noun", "color"),
    [
        ("a blue mushroom", "mushroom", "blue"),
        ("A green wooden barrel.", "wooden barrel", "green"),
        ("an orange", "orange", None),  # the last word is the noun, whatever it is
        ("a gray cat", "cat", "grey"),
        ("an orange orange", "orange", "orange"),
        ("a jack-o'-lantern", "jack-o'-lantern", None),
        ("a wooden red chair", "wooden red chair", None),  # a colour behind another word is left alone
    ],
)
def test_article_and_colour_are_stripped(text, noun, color):
    assert split_prompt(text) == (noun, color)


def test_prompt_files_are_read_and_refused():
    assert [p.group for p in parse_prompts("# c\ntrain\ta chair\n\na red cat\n")] == ["train", "other"]
    with pytest.raises(ValueError, match="nonsense"):
        parse_prompts("nonsense\ta chair")
    assert prompt_of("a couch", eval100()).group == "near"
    assert prompt_of("a purple dragon", eval100()) == Prompt("other", "a purple dragon", "dragon", "purple")


def test_synonyms_name_each_noun_once():
    names = [n for names in SYNONYMS.values() for n in names]
    assert len(names) == len(set(names)) and not set(names) & set(SYNONYMS)
    assert class_of("hatchet") == "axe" and class_of("windmill") == "windmill"


def test_rank_is_of_the_right_class_and_its_names_do_not_compete():
    names = ["sofa", "couch", "chair", "key"]
    scores = torch.tensor([[0.1, 0.7, 0.8, 0.75]])
    by_class = class_scores(scores, names, ["sofa", "chair", "key"])
    assert torch.equal(by_class, torch.tensor([[0.7, 0.8, 0.75]]))
    assert [rank_of(by_class[0], k) for k in range(3)] == [3, 1, 2]
    assert rank_of(torch.zeros(4), 2) == 4  # a network that says nothing gets no credit
    with pytest.raises(ValueError, match="table"):
        class_scores(scores, names, ["table"])


def test_labels_of_the_packs_names():
    pairs = {
        "snowy pine tree": "pine tree",
        "treasure chest full of gold": "treasure chest",
        "chest of drawers": "chest of drawers",
        "table lamp": "table lamp",
        "long wooden table with dishes": "table",
        "firetruck": "fire truck",
        "small wooden rowboat": "rowboat",
        "crate of carrots": "crate of carrots",
        "red flower": "flower",
        "medieval house with a blue roof": "house",
        "car wheel": "car wheel",
        "suv car": "car",
    }
    assert {k: label(k) for k in pairs} == pairs


def test_kinds_of_things_with_a_front():
    def kind(name: str, category: str) -> str:
        return front_kind({"name": name, "category": category})

    assert kind("suv car", "vehicle") == kind("firetruck", "vehicle") == "road vehicle"
    assert kind("spaceship", "vehicle") == "spacecraft" and kind("pirate ship", "vehicle") == "boat"
    assert kind("goblin shark", "animal") == "fish" and kind("wolf", "animal") == "animal"
    assert kind("cargo train locomotive", "vehicle") == "other vehicle" and kind("ghost", "character") == "character"
    assert {kind(n, "vehicle") for n in ("police car", "monster truck", "fire truck")} == {VIEW_DISTINCT["fire truck"]}
    assert has_front({"name": "bus", "category": "vehicle"})
    assert not has_front({"name": "car wheel", "category": "vehicle"})
    assert not has_front({"name": "tree", "category": "plant"})
    distinct = {k for k in classes(eval100()) if k in VIEW_DISTINCT}
    assert distinct >= {"police car", "bee", "cow", "whale", "skeleton"} and VIEW_DISTINCT["knight"] == "character"


def test_split_holds_out_whole_families_and_keeps_every_wanted_class():
    names = ["bee", "sofa", "couch", "tree", "rock", "dog"]
    rows = [
        {"name": n, "family": f"{author}:{n}", "category": "animal" if n in ("bee", "dog") else "misc"}
        for n in names
        for author in ("A", "B", "C", "D", "E", "F", "G", "H")
        for _ in range(2)
        if not (n == "bee" and author != "A")
    ]
    training, held = split(rows, {"bee", "sofa"})
    assert sorted(training + held) == list(range(len(rows)))
    assert not {rows[i]["family"] for i in training} & {rows[i]["family"] for i in held}
    assert not any(rows[i]["name"] == "bee" for i in held)  # one family: learned, not measured
    sofas = [i for i in held if label(rows[i]["name"]) == "sofa"]
    assert len(sofas) == 4  # 16 families: two of them


def _flat(rgb: tuple[float, float, float], share: float = 1.0, other=(0.0, 0.0, 0.0)) -> torch.Tensor:
    """One frame: a square of 32 x 32 in the middle, its upper `share` in one colour, the rest in another."""
    frame = torch.full((1, 7, 64, 64), 0.5)
    frame[:, 3] = 0
    frame[:, 3, 16:48, 16:48] = 1
    cut = 16 + round(32 * share)
    for channel in range(3):
        frame[:, channel, 16:cut, 16:48] = rgb[channel]
        frame[:, channel, cut:48, 16:48] = other[channel]
    return frame


def _rgb(code: str) -> tuple[float, ...]:
    return tuple(int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))


@pytest.mark.parametrize("asked", COLOR_WORDS)
def test_colours_of_other_shades_than_the_prototypes_are_named(asked):
    for code in CSS[asked]:
        reading = read_color(_flat(_rgb(code)))  # pyright: ignore[reportArgumentType]
        assert [c for c in COLOR_WORDS if color_is_right(reading, c)] == [asked], code


def test_colour_shares_count_the_object_alone():
    reading = read_color(_flat((1, 0, 0), 0.25, (0.02, 0.02, 0.02)))
    assert reading.shares is not None
    assert reading.shares["red"] == 0.25 and reading.shares["black"] == 0.75
    assert color_is_right(reading, "red")  # black wheels do not make a red car black
    assert color_is_right(reading, "black") and not color_is_right(reading, "grey")
    few = read_color(_flat((1, 0, 0), 0.125, (0.5, 0.5, 0.5)))
    assert not color_is_right(few, "red")  # an eighth is a detail
    rival = read_color(_flat((1, 0, 0), 0.4375, (0, 0, 1)))
    assert not color_is_right(rival, "red") and color_is_right(rival, "blue")


def test_saturation_is_cielab_chroma():
    chroma = read_color(_flat((1, 0, 0))).chroma
    assert chroma == pytest.approx(104.55, abs=0.05)  # sRGB red: a 80.09, b 67.20
    assert read_color(_flat((0.3, 0.3, 0.3))).chroma == pytest.approx(0, abs=0.01)
    half = read_color(_flat((1, 0, 0), 0.5, (0.3, 0.3, 0.3))).chroma
    assert half == pytest.approx(104.55 / 2, abs=0.05)


def test_an_empty_object_has_no_colour():
    frame = _flat((1, 0, 0))
    frame[:, 3] = 0
    reading = read_color(frame)
    assert reading.shares is None and reading.chroma is None
    assert not color_is_right(reading, "red")


def test_prototypes_name_themselves():
    codes = [(n, c) for n, cs in PROTOTYPES.items() for c in cs]
    named = name_colors(torch.tensor([_rgb(c) for _, c in codes]))
    assert [COLOR_WORDS[i] for i in named] == [n for n, _ in codes]


def test_a_repainted_object_is_read_in_its_new_colour():
    for name, codes in CSS.items():
        reading = read_color(coloured_frames(repaint(mushroom(), codes[0]), own_cameras()[::3]))
        assert color_is_right(reading, name), name


def test_hue_rotation_keeps_greys_and_turns_primaries():
    third = hue_matrix(torch.tensor([2 * math.pi / 3]), torch.ones(1))[0]
    assert torch.allclose(third @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6)
    assert torch.allclose(third @ torch.full((3,), 0.4), torch.full((3,), 0.4), atol=1e-6)
    matrix, offset = random_color_maps(64, torch.Generator().manual_seed(0))
    colors = torch.einsum("bij,j->bi", matrix, torch.tensor([0.8, 0.2, 0.1])) + offset
    assert colors.std(0).min() > 0.1


def test_bootstrap_interval_covers_a_known_mean():
    generator = torch.Generator().manual_seed(3)
    covered = 0
    for seed in range(60):
        values = (torch.rand(40, generator=generator) < 0.3).double().tolist()
        interval = mean_interval(values, seed)
        assert interval is not None
        mean, low, high = interval
        assert low <= mean <= high and mean == pytest.approx(sum(values) / 40)
        covered += low <= 0.3 <= high
    assert covered >= 51
    assert mean_interval([]) is None
    assert mean_interval([0.5] * 5) == [0.5, 0.5, 0.5]
    assert mean_interval([0.2, 0.4]) == [pytest.approx(0.3)], "two numbers have no interval"
    assert interval_text(mean_interval([0.25]), 100, 0) == "25" and interval_text(None) == "-"
    assert interval_text([0.5, 0.25, 0.75], 100, 0) == "50 [25, 75]"


def test_kernel_distance_is_about_zero_for_one_distribution_and_grows_with_the_shift():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 300, 32, generator=g)
    same = [kernel_distance(*torch.randn(2, 100, 32, generator=g)) for _ in range(20)]
    spread = float(np.std(same))
    assert abs(float(np.mean(same))) < spread  # unbiased: no offset at finite size
    near, far = kernel_distance(x, y + 0.5), kernel_distance(x, y + 1.0)
    assert far > near > 5 * spread
    with pytest.raises(ValueError, match="at least two"):
        kernel_distance(x[:1], y)


def test_kernel_distance_rises_on_a_collapse_and_is_not_fooled_by_views_of_one_object():
    """Sixteen objects of four views each, against copies of their mean: the same direction on average, none of the
    spread. Unit vectors and pairs within an object hide it."""
    g = torch.Generator().manual_seed(0)

    def objects(n: int) -> torch.Tensor:
        own = torch.randn(n, 1, 256, generator=g)
        return (own + 0.3 * torch.randn(n, 4, 256, generator=g)).flatten(0, 1) + 1

    real, fresh = objects(16), objects(16)
    collapsed = fresh.reshape(16, 4, 256).mean(0).repeat(16, 1)
    rises = kernel_distance(collapsed, real, 4) - kernel_distance(fresh, real, 4)
    unit = [torch.nn.functional.normalize(f, dim=1) for f in (real, fresh, collapsed)]
    hidden = kernel_distance(unit[2], unit[0]) - kernel_distance(unit[1], unit[0])
    assert rises > 0.1 and abs(hidden) < 0.01
    one_by_one = float(np.mean([kernel_distance(objects(8), objects(8), 4) for _ in range(20)]))
    as_independent = float(np.mean([kernel_distance(objects(8), objects(8)) for _ in range(20)]))
    assert abs(one_by_one) < 0.2 < as_independent, "views of one object are alike: that is no distance"


def test_nearest_finds_the_copy():
    bank = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    distance, index = nearest(torch.stack([3 * bank[17], -bank[3]]), bank)
    assert int(index[0]) == 17 and float(distance[0]) == pytest.approx(0, abs=1e-6)
    assert int(index[1]) != 3 and float(distance[1]) > 0.2


def test_psnr_and_ssim():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 64, 64, generator=g)
    assert torch.allclose(psnr(x, (x + 0.1)), torch.full((3,), 20.0), atol=1e-4)
    assert torch.allclose(ssim(x, x), torch.ones(3), atol=1e-6)
    little = ssim(x, x + 0.05 * torch.randn(x.shape, generator=g))
    much = ssim(x, x + 0.3 * torch.randn(x.shape, generator=g))
    assert (much < little).all() and (little < 1).all() and (much > 0).all()


def test_cameras_are_not_the_priors():
    own, prior = own_cameras(), prior_cameras()
    assert len(own) == 12 and len(prior) == 4
    assert not torch.isclose(own.fov[0], prior.fov[0]) and not torch.isclose(own.distance[0], prior.distance[0])
    front, back = front_and_back(own.azimuth)
    assert front.nonzero().flatten().tolist() == [0, 1, 11] and back.nonzero().flatten().tolist() == [5, 6, 7]
    assert front_and_back(prior.azimuth)[1].tolist() == [False, False, True, False]


def _glb(path: Path, meshes: list[trimesh.Trimesh]) -> Path:
    path.write_bytes(trimesh.Scene(meshes).export(file_type="glb"))  # pyright: ignore[reportArgumentType]
    return path


def test_a_vertex_coloured_glb_looks_like_the_mesh_it_was_made_from(tmp_path):
    """Another renderer, another file format, another size and place: the same frames but for edges."""
    v, _, c, f = car()
    # glTF's vertex colours are linear, ours are sRGB
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    colors = np.concatenate([linear * 255, np.full((len(c), 1), 255)], 1).round().astype(np.uint8)
    mesh = trimesh.Trimesh(3 * v + [1, 2, 3], f, vertex_colors=colors, process=False)
    frames = asset_frames(_glb(tmp_path / "car.glb", [mesh]))
    w = unit(torch.from_numpy(v)).numpy()
    expected = coloured_frames((w, car()[1], c, f), own_cameras())
    assert frames.shape == (12, 7, 64, 64)
    assert (frames[:, 3] - expected[:, 3]).abs().mean() < 0.01
    inside = (frames[:, 3] == 1) & (expected[:, 3] == 1)
    assert inside.sum() > 3000
    assert (frames - expected).abs().permute(0, 2, 3, 1)[inside].mean() < 0.02


def test_a_textured_glb_with_a_factor_and_a_plain_second_mesh(tmp_path):
    from PIL import Image
    from trimesh.visual.material import PBRMaterial

    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = (255, 0, 0)  # the upper half of the picture
    pixels[32:] = (0, 0, 255)
    v = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    f = np.array([[0, 1, 2], [0, 2, 3]])
    picture = PBRMaterial(baseColorTexture=Image.fromarray(pixels))
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)  # trimesh: v = 1 is the picture's top
    sheet = trimesh.Trimesh(v, f, visual=trimesh.visual.TextureVisuals(uv=uv, material=picture), process=False)
    green = PBRMaterial(baseColorFactor=[0, 255, 0, 255])
    small = trimesh.Trimesh(
        0.25 * v + [0, 0, 0.1],
        f,
        visual=trimesh.visual.TextureVisuals(uv=np.zeros((4, 2)), material=green),
        process=False,
    )
    camera = make_cameras(torch.zeros(1), torch.zeros(1))
    frame = asset_frames(_glb(tmp_path / "two.glb", [sheet, small]), camera)[0]
    assert torch.allclose(frame[:3, 14, 32], torch.tensor([1.0, 0, 0]), atol=0.02)
    assert torch.allclose(frame[:3, 50, 32], torch.tensor([0.0, 0, 1]), atol=0.02)
    assert torch.allclose(frame[:3, 32, 32], torch.tensor([0.0, 1, 0]), atol=0.02)
    assert torch.allclose(frame[4:, 14, 32], torch.tensor([0.5, 0.5, 1]), atol=0.01)
    behind = asset_frames(tmp_path / "two.glb", make_cameras(torch.tensor([math.pi]), torch.zeros(1)))[0]
    assert torch.allclose(behind[4:, 32, 32], torch.tensor([0.5, 0.5, 1]), atol=0.01)  # a sheet has two sides


def test_files_that_are_no_mesh_are_refused(tmp_path):
    (tmp_path / "bad.glb").write_bytes(b"not a mesh")
    with pytest.raises(UsageError, match="cannot be read"):
        asset_frames(tmp_path / "bad.glb")
    point = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
    with pytest.raises(CollapseError):
        asset_frames(_glb(tmp_path / "point.glb", [point]))


def _record(text: str, rank: int, color: bool | None = None, janus: float | None = None) -> Record:
    prompt = prompt_of(text, eval100())
    back = None if janus is None else max(0.0, janus)
    return Record(prompt, "test", rank, 55, [], color, None, 20.0, back, janus)


def test_the_table_counts_prompts_not_runs_and_keeps_groups_apart():
    records = [
        _record("a chair", 1),
        _record("a chair", 9),  # another seed: the prompt's value is 0.5
        _record("a sofa", 1),
        _record("a red sofa", 5, color=True),
        _record("a pink chair", 6, color=False),
        _record("a police car", 2, janus=0.25),
    ]
    rows = {r["group"]: r for r in table(records)}
    assert list(rows) == ["train", "recolour", "all"]
    assert rows["train"]["prompts"] == 3 and rows["train"]["objects"] == 4
    assert rows["train"]["R@1"][0] == pytest.approx(0.5)
    assert rows["train"]["color"] is None and rows["train"]["color n"] == 0
    assert (
        rows["recolour"]["R@1"][0] == 0 and rows["recolour"]["R@5"][0] == 0.5 and rows["recolour"]["color"][0] == 0.5
    )
    assert rows["all"]["janus"][0] == 0.25 and rows["all"]["janus n"] == 1
    text = text_table(list(rows.values()))
    assert len({line.split()[0] for line in text.splitlines()}) == 4 and "70 [30, 100]" in text and "83  " in text
    assert all(f"{m} n" in rows["all"] for m in METRICS)


def test_classes_of_the_fixed_prompts_do_not_change_by_accident():
    assert len(classes(eval100())) == 55
    assert set(OBJECTS) == {"a red mushroom", "a blue car", "a green tree"}
