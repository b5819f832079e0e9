"""The shipped evaluator: its files, what it says of objects made in code, and the evaluate command as a process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from app.errors import MissingError
from app.evaluate.measure import Record, measure, qualified
from app.evaluate.network import (
    AZIMUTH_BINS,
    WEIGHTS,
    Evaluator,
    Network,
    embed_nouns,
    front_score,
    light_frames,
    load_evaluator,
    save_evaluator,
    shipped_folder,
)
from app.evaluate.nouns import classes, eval100, prompt_of
from app.evaluate.views import asset_frames, coloured_frames, own_cameras
from app.export.bake import bake
from app.export.glb import textured, write_glb
from app.export.unwrap import unwrap
from app.recipe_yaml import to_yaml
from app.recipes import Recipe
from app.training.evaluator import Labels, augment, azimuth_target, class_loss
from renderers.raster import RasterizeCpuContext
from tests.objects import car, mushroom, tree


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return load_evaluator()


def test_weights_are_small_and_their_checksum_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "evaluator"
    shutil.copytree(shipped_folder(), folder)
    assert (folder / WEIGHTS).stat().st_size < 6_000_000
    load_evaluator(folder)
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-100] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(MissingError, match="altered"):
        load_evaluator(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(MissingError, match="missing"):
        load_evaluator(folder)


def test_the_config_states_a_ceiling_above_chance(evaluator: Evaluator) -> None:
    ceiling = evaluator.config["ceiling"]
    held = ceiling["held_out_12_own_views"]
    assert held["objects"] >= 70 and held["classes"] >= 35
    assert held["R@1"][0] > 20 * ceiling["chance_R@1"]
    assert len(ceiling["ranks_by_class"]) == held["classes"]
    assert ceiling["recoloured_held_out"]["colour right"][0] > 0.9
    assert set(ceiling["classes_without_any_object"]) <= set(classes(eval100()))


def test_janus_counts_qualified_nouns_alone(evaluator: Evaluator) -> None:
    good = {"objects": 5, "accuracy": 0.96, "back_called_front": 0.04}
    sections = {"road vehicle": good, "character": good | {"accuracy": 0.94}, "animal": good | {"objects": 3}}
    judge = Evaluator(evaluator.net, evaluator.encoder, {"ceiling": {"front_back": sections}})
    assert qualified(judge) == dict.fromkeys(("police car", "fire truck", "monster truck", "car"), 0.04)
    frames, fixed = coloured_frames(car(), own_cameras()), eval100()
    records = [
        measure(judge, frames, own_cameras().azimuth, prompt_of(text, fixed), classes(fixed), "test", qualified(judge))
        for text in ("a police car", "a skeleton")
    ]
    called = evaluator(frames, ["car"]).front[[5, 6, 7]] > 0
    assert records[0].back_called_front == pytest.approx(float(called.float().mean()))
    assert records[0].janus == pytest.approx(float(called.float().mean()) - 0.04)
    assert records[1].janus is None and records[1].back_called_front is None


def test_weights_survive_the_file(evaluator: Evaluator, tmp_path: Path) -> None:
    save_evaluator(evaluator.net, tmp_path, {"ceiling": {}})
    again = load_evaluator(tmp_path, evaluator.encoder)
    frames = coloured_frames(car(), own_cameras())
    a, b = evaluator(frames, ["car", "chair"]), again(frames, ["car", "chair"])
    assert torch.equal(a.scores, b.scores) and torch.equal(a.front, b.front)


@pytest.mark.parametrize(("make", "text"), [(mushroom, "a mushroom"), (tree, "a pine tree")])
def test_objects_made_in_code_are_recognised(evaluator: Evaluator, make, text: str) -> None:
    prompts = eval100()
    record = _measure(evaluator, coloured_frames(make(), own_cameras()), text)
    assert record.classes == len(classes(prompts)) == 55
    assert record.rank <= 5, record.best


def test_any_noun_can_be_asked_and_joins_the_list(evaluator: Evaluator) -> None:
    record = _measure(evaluator, coloured_frames(mushroom(), own_cameras()), "a blue dragon")
    assert record.classes == 56 and record.prompt.kind == "dragon" and record.rank > 1
    assert record.color_right is False and record.prompt.color == "blue"
    assert record.janus is None  # not a qualified noun


def _measure(evaluator: Evaluator, frames: torch.Tensor, text: str) -> Record:
    fixed = eval100()
    azimuth, real = own_cameras().azimuth, qualified(evaluator)
    return measure(evaluator, frames, azimuth, prompt_of(text, fixed), classes(fixed), "test", real)


def test_nouns_near_in_meaning_are_near_in_the_text_space(evaluator: Evaluator) -> None:
    e = evaluator.nouns(["couch", "sofa", "sword"])
    assert torch.allclose(e.norm(dim=1), torch.ones(3), atol=1e-5)
    assert e[0] @ e[1] > 0.6 > 0.3 > e[0] @ e[2]
    alone = embed_nouns(evaluator.encoder, ["couch"])
    beside = embed_nouns(evaluator.encoder, ["couch", "a lantern on a very long pole"])
    assert torch.allclose(alone[0], beside[0], atol=1e-5)  # padding does not count


def test_light_depends_on_normals_and_empty_pixels_on_nothing() -> None:
    frame = torch.full((1, 7, 64, 64), 0.5)
    frame[:, 3] = 1
    frame[:, 4:] = torch.tensor([0.40, 0.60, 0.69])[:, None, None] / 0.9984 * 0.5 + 0.5  # towards the lamp
    bright = light_frames(frame)
    frame[:, 4:] = 1 - frame[:, 4:]
    dark = light_frames(frame)
    assert bright[0, 0, 0, 0] == pytest.approx(0.5 * 1.2**0.5, abs=1e-3)
    assert dark[0, 0, 0, 0] == pytest.approx(0.5 * 0.45**0.5, abs=1e-3)
    frame[:, 3] = 0
    empty = light_frames(frame)
    assert torch.allclose(empty[:, :4], torch.full((1, 4, 64, 64), 0.8)) and (empty[:, 4] == 0).all()
    with pytest.raises(ValueError, match="frames of shape"):
        light_frames(torch.zeros(1, 7, 32, 32))


def test_front_score_is_the_expected_cosine() -> None:
    logits = torch.full((3, AZIMUTH_BINS), -30.0)
    logits[0, 0] = logits[1, 4] = logits[2, 2] = 0
    assert torch.allclose(front_score(logits), torch.tensor([1.0, -1.0, 0.0]), atol=1e-5)
    target = azimuth_target(torch.tensor([0.0, torch.pi / 8, -torch.pi / 4]))
    assert torch.allclose(target.sum(1), torch.ones(3))
    assert target[0, 0] == 1 and target[2, 7] == pytest.approx(1, abs=1e-5)
    assert target[1, :2].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


def test_names_of_one_class_do_not_compete_in_the_loss() -> None:
    labels = Labels(["sofa", "key"], ["sofa", "couch", "key"], torch.tensor([0, 0, 1]), torch.zeros(0), torch.ones(2))
    kind = torch.tensor([0])
    either = class_loss(torch.tensor([[0.0, 9.0, 0.0]]), labels, kind)
    assert float(either) < 1e-3  # "couch" is as right as "sofa"
    assert float(class_loss(torch.tensor([[0.0, 0.0, 9.0]]), labels, kind)) > 8
    only = torch.tensor([True, False])
    assert float(class_loss(torch.tensor([[0.0, 0.0, 9.0]]), labels, kind, only)) == pytest.approx(0, abs=1e-6)


def test_augmented_frames_stay_frames_and_mirrors_turn_the_azimuth() -> None:
    frames = coloured_frames(car(), own_cameras()).repeat(8, 1, 1, 1)
    azimuth = own_cameras().azimuth.repeat(8)
    out, turned = augment(frames.clone(), azimuth, torch.Generator().manual_seed(0))
    assert out.shape == frames.shape and 0 <= float(out.min()) and float(out.max()) <= 1
    mirrored = turned != azimuth
    assert torch.allclose(turned[mirrored], -azimuth[mirrored]) and 20 < int(mirrored.sum()) < 70
    assert (out[:, :3] - frames[:, :3]).abs().mean() > 0.03
    assert out[:, 3].mean() == pytest.approx(float(frames[:, 3].mean()), rel=0.15)


def test_an_untrained_network_knows_nothing(evaluator: Evaluator) -> None:
    """The recognition above is in the weights, not in the test."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        blank = Evaluator(Network(), evaluator.encoder, evaluator.config)
    frames = [coloured_frames(m(), own_cameras()) for m in (mushroom, tree, car)]
    best = [_measure(blank, f, "a mushroom").best[0] for f in frames]
    assert len(set(best)) == 1  # it says the same of everything


def _mushroom_colors(x: torch.Tensor) -> torch.Tensor:
    """The colours of tests/objects.py's mushroom on its surface: red on the cap's ellipsoid, beige elsewhere."""
    radius = ((x - torch.tensor([0, 0.3, 0])) / torch.tensor([0.6, 0.42, 0.6])).norm(dim=1, keepdim=True)
    return torch.where((radius - 1).abs() < 0.05, torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.9, 0.8, 0.65]))


def _export(folder: Path, text: str, make, finished: bool = True) -> None:
    """A run folder with what `evaluate` reads, by the exporter itself."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(Recipe(text)))
    if not finished:
        return
    v, _, _, f = make()
    unwrapped = unwrap(torch.from_numpy(v), torch.from_numpy(f), 256)
    texture = bake(RasterizeCpuContext(), _mushroom_colors, unwrapped, 256)
    write_glb(folder / "mesh.glb", textured(unwrapped, texture))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    _export(folder / "one", "a mushroom", mushroom)
    _export(folder / "two", "a red mushroom", mushroom)
    _export(folder / "three", "a chair", mushroom, finished=False)
    (folder / "not-a-run").mkdir()
    return folder


def polymode(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "app.cli", *words], capture_output=True, text=True, timeout=300)


def test_an_exported_asset_looks_like_its_mesh(runs: Path) -> None:
    v, n, c, f = mushroom()
    centre = (v.max(0) + v.min(0)) / 2
    v = ((v - centre) / np.linalg.norm(v - centre, axis=1).max()).astype(np.float32)
    expected, frames = coloured_frames((v, n, c, f), own_cameras()), asset_frames(runs / "one" / "mesh.glb")
    inside = (frames[:, 3] == 1) & (expected[:, 3] == 1)
    assert (frames[:, 3] - expected[:, 3]).abs().mean() < 0.01
    difference = (frames - expected).abs().permute(0, 2, 3, 1)[inside].mean(0)
    assert (difference[:3] < 0.02).all() and (difference[4:] < 0.02).all(), difference


def test_evaluate_a_run_as_a_process(runs: Path, tmp_path: Path) -> None:
    result = polymode("evaluate", str(runs / "one"), "--json", "--out", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())
    (record,) = printed["records"]
    assert record["group"] == "train" and record["class"] == "mushroom" and record["classes"] == 55
    assert 1 <= record["rank"] <= 5
    assert record["shares"]["red"] > 0.4 and record["saturation"] > 30
    rows = {r["group"]: r for r in printed["table"]}
    assert set(rows) == {"train", "all"} and rows["all"]["R@5"][0] == 1
    assert Image.open(tmp_path / "out" / "contact_sheet.png").size[0] > 500


def test_evaluate_a_folder_of_runs_prints_a_table(runs: Path) -> None:
    result = polymode("evaluate", str(runs))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["group", "prompts"]
    assert [line.split()[:2] for line in lines[1:4]] == [["train", "1"], ["other", "1"], ["all", "2"]]
    assert "Ceiling" in result.stdout and f"Not finished, left out: {runs / 'three'}" in result.stdout
    assert lines[2].split()[4] == "100" and "[" not in lines[2]  # "a red mushroom" is red; one prompt has no interval


def test_evaluate_samples_of_the_prior(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a chair\na green dragon\na sofa\n")
    words = ("evaluate", "prior", "--prompts", str(prompts), "--count", "2", "--steps", "2", "--json")
    result = polymode(*words)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert [r["prompt"] for r in printed["records"]] == ["a chair", "a green dragon"]
    assert [r["classes"] for r in printed["records"]] == [56, 56]
    assert printed["sampling"] == {"views": 4, "steps": 2, "scale": 5.0, "guide_above": 3.0, "elevation": 15.0}
    assert polymode(*words).stdout == result.stdout


def test_bad_use_is_one_sentence(runs: Path, tmp_path: Path) -> None:
    def sentence(*words: str) -> str:
        result = polymode("evaluate", *words)
        assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
        return result.stderr

    assert "not a folder" in sentence(str(tmp_path / "nowhere"))
    assert "no run" in sentence(str(runs / "not-a-run"))
    assert "is finished" in sentence(str(runs / "three"))
    assert "only for" in sentence(str(runs), "--steps", "3")


def test_a_run_without_a_prompt_is_refused(tmp_path: Path) -> None:
    from app.errors import UsageError
    from app.evaluate.command import run_prompt

    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"picture": "cat.png"}))
    with pytest.raises(UsageError, match="no prompt"):
        run_prompt(tmp_path)
