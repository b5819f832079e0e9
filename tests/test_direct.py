"""The direct path: exact frames fused to shapes whose answers are known, candidates, and the command as a process."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree
from torch import Tensor

from app.candidates import Candidate, Shape, candidate_seeds, choose, fusion_residual
from app.errors import CollapseError
from app.pipeline import fuse
from app.recipes import DirectRecipe, Recipe
from app.run.folder import Run, create_run, generators
from app.run.progress import Progress
from app.run.work import Clock, Work
from app.stages.fuse import hull_mesh
from app.stages.rounds import bending, neighbours
from app.stages.sample import direct_cameras, sample
from guidance.direct import joint_conditions, prior_score, sample_frames
from guidance.prior import Prediction, squared_cosine_schedule
from renderers.isosurface import signed_volume
from renderers.mesh import vertex_normals
from renderers.raster import antialias_construct_topology_hash
from renderers.snapshot import snapshots
from tests.objects import LEGS, Mesh, car, cross, sphere, sword, table
from tests.test_cli import polymode
from tests.tiny import tiny_prior

SHORT = ["--direct.steps", "4", "--direct.rounds", "1", "--direct.fit", "12", "--direct.hull", "40"]
SHORT += ["--mesh.faces", "1500", "--texture.size", "256"]


class Oracle:
    """A prior that knows the one object there is: x0 is its exact frames where the prompt is given, grey without."""

    name, frame_shape, latent_shape = "oracle", (7, 64, 64), (7, 64, 64)
    device = torch.device("cpu")

    def __init__(self, frames: Tensor):
        self.frames, self.schedule = frames, squared_cosine_schedule()

    def condition(self, prompt: str, views: object) -> bool:
        return bool(prompt)

    def encode(self, frames: Tensor) -> Tensor:
        return 2 * frames - 1

    def predict(self, z: Tensor, t: Tensor, conditions: list[bool]) -> list[Prediction]:
        truth = 2 * self.frames - 1
        return [Prediction.from_x0(truth if known else 0 * truth, z, t, self.schedule) for known in conditions]


def exact(mesh: Mesh, recipe: Recipe) -> Tensor:
    cameras = direct_cameras(recipe.direct)
    return torch.from_numpy(snapshots([mesh] * len(cameras), cameras, 64, supersample=4))


def job_of(recipe: Recipe, folder: Path, prior: object = None) -> Work:
    run = create_run(recipe, folder / "run")
    return Work(recipe, run, Progress(quiet=True), Clock(), lambda: False, prior, torch.device("cpu"))  # pyright: ignore[reportArgumentType]


def fused(mesh: Mesh, folder: Path, **changes: int) -> Shape:
    recipe = Recipe("x", method="direct", direct=dataclasses.replace(DirectRecipe(), **changes))
    return fuse(job_of(recipe, folder), "", exact(mesh, recipe), direct_cameras(recipe.direct), generators(0))


def as_trimesh(shape: Shape) -> trimesh.Trimesh:
    return trimesh.Trimesh(shape.vertices.numpy(), shape.faces.numpy(), process=False)


def points_on(mesh: trimesh.Trimesh, count: int = 3000) -> np.ndarray:
    return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=1)[0])


def test_a_sample_read_back_leaves_the_noise_where_a_drawn_one_does(tmp_path: Path) -> None:
    """A run with --init direct that dies after its sample goes on with the same noise, and knows what was drawn."""
    prior, recipe = tiny_prior(), DirectRecipe(steps=2)
    run = create_run(Recipe("a cube"), tmp_path / "run")
    cameras, results = direct_cameras(recipe), []
    for _ in range(2):
        streams = generators(3)
        told = (cameras, streams["noise"], Progress(quiet=True), lambda: False)
        frames, drawn, _ = sample(run, "sample", recipe, prior, "a cube", *told)
        results.append((frames, drawn.noise, streams["noise"].get_state()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert (drawn.azimuth, drawn.scale, len(drawn.knots)) == (0.0, recipe.scale, 2)
    assert len(drawn.noise) == 4 and drawn.elevation == pytest.approx(math.radians(15)), (
        "the view from above is no anchor"
    )


def test_a_view_from_above_carves_what_four_around_cannot() -> None:
    """A cross lying flat: its four notches are hidden from every side."""
    volume = {}
    for views in (4, 5):
        recipe = DirectRecipe(views=views, relax=False)
        cameras = direct_cameras(recipe)
        hull = hull_mesh(exact(cross(), Recipe("x", direct=recipe)), cameras, recipe, 0.02)
        volume[views] = signed_volume(hull.vertices, hull.faces)
    assert volume[5] < 0.9 * volume[4]
    assert float(direct_cameras(DirectRecipe(views=5)).elevation[-1]) == pytest.approx(math.radians(80))


def test_exact_frames_of_a_sphere_fuse_to_the_sphere(tmp_path: Path) -> None:
    shape = fused(sphere(0.6), tmp_path)
    radius = shape.vertices.norm(dim=1)
    assert float((radius / 0.6 - 1).abs().mean()) < 0.01 and abs(float(radius.mean()) / 0.6 - 1) < 0.01
    seen = shape.vertices[:, 1] > -0.5  # the last tenth, under the ball, no view looks at
    assert float((radius / 0.6 - 1).abs()[seen].max()) < 0.05
    off = 1 - (vertex_normals(shape.vertices, shape.faces) * shape.vertices / radius[:, None]).sum(1)
    assert float(off.mean()) < 0.02
    mesh = as_trimesh(shape)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.euler_number == 2
    assert isinstance(shape.color, Tensor)
    assert float((shape.color - torch.tensor([0.2, 0.5, 0.9])).abs()[seen].mean()) < 0.02, "its own blue"


def test_a_fused_table_keeps_its_four_legs_and_a_sword_its_blade(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    vertices = fused(table(), tmp_path / "a").vertices.numpy()
    low = vertices[(vertices[:, 1] > -0.44) & (vertices[:, 1] < 0.0)]
    assert low[:, 1].min() < -0.35
    nearest = np.stack([np.hypot(low[:, 0] - x, low[:, 2] - z) for x, z in LEGS], 1)
    assert (np.bincount(nearest.argmin(1), minlength=4) > 40).all(), "each leg is there"
    assert np.quantile(nearest.min(1), 0.95) < 0.12, (
        "and nothing between them (near the top, four views leave a little)"
    )
    blade = as_trimesh(fused(sword(), tmp_path / "b"))
    true = trimesh.Trimesh(sword()[0], sword()[3], process=False)
    assert np.abs(blade.extents - true.extents).max() < 0.08
    assert cKDTree(points_on(blade)).query(points_on(true))[0].max() < 0.08, "no part of it is lost"


def test_eight_views_fuse_better_than_four_on_a_car(tmp_path: Path) -> None:
    true = points_on(trimesh.Trimesh(car()[0], car()[3], process=False))
    off = []
    for views in (4, 8):
        (tmp_path / str(views)).mkdir()
        shape = fused(car(), tmp_path / str(views), views=views, rounds=1)
        off.append(cKDTree(true).query(points_on(as_trimesh(shape)))[0].mean())
    assert off[1] < off[0] < 0.05


def test_the_fits_gradient_has_the_same_bits_every_time() -> None:
    ball = trimesh.creation.icosphere(subdivisions=5)
    vertices, faces = torch.tensor(ball.vertices).float(), torch.tensor(ball.faces).int()
    pairs = neighbours(antialias_construct_topology_hash(faces))
    gradients = []
    for _ in range(5):
        v = vertices.clone().requires_grad_(True)
        bending(v, faces, pairs).backward()
        gradients.append(v.grad)
    assert all(torch.equal(gradients[0], g) for g in gradients[1:])  # pyright: ignore


def test_views_that_share_no_space_are_a_collapse_with_a_sentence() -> None:
    frames = torch.full((5, 7, 64, 64), 0.5)
    frames[:, 3] = 0
    with pytest.raises(CollapseError, match="share no part"):
        hull_mesh(frames, direct_cameras(DirectRecipe()), DirectRecipe(), 0.02)


def test_contradicting_views_relax_the_hull() -> None:
    """One view shows its object shifted by 12 pixels: strict carving loses it, the relaxed hull agrees better."""
    recipe = DirectRecipe()
    frames = exact(sphere(0.4), Recipe("x", direct=recipe))
    frames[2] = frames[2].roll(20, 2)
    cameras = direct_cameras(recipe)
    strict = hull_mesh(frames, cameras, dataclasses.replace(recipe, relax=False), 0.02)
    relaxed = hull_mesh(frames, cameras, recipe, 0.02)
    assert relaxed.agreement > strict.agreement + 0.02 and relaxed.outvoted + relaxed.margin > strict.margin


def test_sampling_an_exact_prior_returns_its_frames_and_the_score_prefers_them() -> None:
    recipe = Recipe("a ball", direct=DirectRecipe(steps=3, guide_above=1.0))
    frames, cameras = exact(sphere(0.5), recipe), direct_cameras(DirectRecipe())
    prior = Oracle(frames)
    seen: list[int] = []
    noise = torch.randn(5, 7, 64, 64, generator=torch.Generator().manual_seed(0))
    out = sample_frames(
        prior,  # pyright: ignore[reportArgumentType]
        "a ball",
        cameras.azimuth,
        cameras.elevation,
        noise,
        3,
        1.0,
        lambda i, x: seen.append(i),
    )
    assert float((out - frames).abs().max()) < 1e-5 and seen == [0, 1, 2]
    conditions = joint_conditions(prior, "a ball", cameras.azimuth, cameras.elevation)  # pyright: ignore[reportArgumentType]
    scores = [
        prior_score(prior, x, conditions, torch.Generator().manual_seed(1))  # pyright: ignore[reportArgumentType]
        for x in (frames, 0.5 + 0.5 * (frames - 0.5), torch.full_like(frames, 0.5))
    ]
    assert scores[0] < scores[1] < scores[2] and scores[0] < 0 < scores[2]


def test_guidance_is_left_out_below_its_noise_level() -> None:
    frames = exact(sphere(0.5), Recipe("x"))
    asked: list[int] = []

    class Watched(Oracle):
        def predict(self, z: Tensor, t: Tensor, conditions: list[bool]) -> list[Prediction]:
            asked.append(len(conditions))
            return super().predict(z, t, conditions)

    cameras, prior = direct_cameras(DirectRecipe()), Watched(frames)
    noise = torch.zeros(5, 7, 64, 64)
    sample_frames(prior, "x", cameras.azimuth, cameras.elevation, noise, 10, 4.0, guide_above=3.0)  # pyright: ignore[reportArgumentType]
    few = sum(n == 2 for n in asked)
    assert asked == [2] * few + [1] * (10 - few) and 1 <= few <= 4


def test_a_sampled_stage_is_read_from_its_checkpoint(tmp_path: Path) -> None:
    recipe = Recipe("a ball", method="direct", direct=DirectRecipe(steps=2, scale=1.0))
    frames, cameras = exact(sphere(0.5), recipe), direct_cameras(recipe.direct)
    run = create_run(recipe, tmp_path / "run")

    def draw(seed: int) -> Tensor:
        stream, quiet = torch.Generator().manual_seed(seed), Progress(quiet=True)
        prior = Oracle(frames)
        return sample(run, "sample", recipe.direct, prior, "a ball", cameras, stream, quiet, lambda: False)[0]  # pyright: ignore[reportArgumentType]

    assert torch.equal(draw(0), draw(1)), "the second is read, not drawn"
    assert (run.previews / "sample-00001.png").is_file() and (run.previews / "sample-00002.png").is_file()


def test_candidates_have_seeds_of_their_own_and_the_best_ranks_win() -> None:
    seeds = candidate_seeds(7, 4)
    assert seeds[0] == 7 and len(set(seeds)) == 4 and candidate_seeds(7, 2) == seeds[:2]
    assert candidate_seeds(8, 4)[1:] != seeds[1:]
    empty = torch.zeros(0, 3)
    shape = Shape(empty, empty.int(), empty, lambda p: p)
    some = [
        Candidate(0, shape, 0.3, -0.1),
        Candidate(1, None, reason="collapsed"),
        Candidate(2, shape, 0.2, -0.2),
        Candidate(3, shape, 0.1, 0.3),
    ]
    assert choose(some) == 2, "second in residual, first in score"
    assert choose([Candidate(0, shape, None, 0.2), Candidate(1, shape, None, 0.1)]) == 1
    with pytest.raises(ValueError, match="no candidate"):
        choose(some[1:2])


def test_the_fusion_residual_is_small_for_the_frames_own_shape(tmp_path: Path) -> None:
    recipe = Recipe("x", method="direct", direct=DirectRecipe(rounds=1))
    cameras, frames = direct_cameras(recipe.direct), exact(sphere(0.6), recipe)
    shape = fuse(job_of(recipe, tmp_path), "", frames, cameras, generators(0))
    other = exact(car(), recipe)
    assert fusion_residual(shape, frames, cameras) < 0.02 < 0.05 < fusion_residual(shape, other, cameras)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("direct") / "run"
    result = polymode("generate", "a wooden barrel", "--method", "direct", *SHORT, "--out", str(folder), "--json")
    assert result.returncode == 0, result.stderr
    assert "sample: step 1/4" in result.stderr and "chance of a recognisable result" in result.stderr
    assert json.loads(result.stdout)["status"] == "done"
    return folder


def test_a_direct_run_leaves_a_complete_folder(finished: Path) -> None:
    for name in ("mesh.glb", "turntable.mp4", "contact_sheet.png", "config.yaml"):
        assert (finished / name).stat().st_size > 0
    metadata = json.loads((finished / "metadata.json").read_text())
    assert metadata["method"] == "direct" and metadata["mesh"]["faces"] <= 1500
    assert 0 < metadata["familiarity"]["confidence"] < 1 and metadata["familiarity"]["nearest"]
    events = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    assert {e["stage"] for e in events if e["event"] == "step"} == {"sample", "fuse1"}
    assert (finished / "previews" / "sample-00004.png").is_file()
    mesh = trimesh.load(finished / "mesh.glb", force="mesh")
    assert len(mesh.faces) == metadata["mesh"]["faces"]  # pyright: ignore


def test_the_same_seed_gives_the_same_bytes_also_after_resume(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    (again / "config.yaml").write_text((finished / "config.yaml").read_text())
    (again / "checkpoints").mkdir(), (again / "previews").mkdir()
    Run(again).save_checkpoint("sample", *(Run(finished).load_checkpoint("sample") or ({}, 0)))
    result = polymode("generate", "--resume", str(again), "--json")
    assert result.returncode == 0, result.stderr
    assert (again / "mesh.glb").read_bytes() == (finished / "mesh.glb").read_bytes()


def test_best_of_keeps_every_thumbnail_and_the_best_candidate(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ["--method", "direct", "--best-of", "2", *SHORT, "--out", str(folder), "--json"]
    result = polymode("generate", "a wooden barrel", *arguments)
    assert result.returncode == 0, result.stderr
    candidates = json.loads((folder / "metadata.json").read_text())["candidates"]
    assert len(candidates) == 2 and sum(c["kept"] for c in candidates) == 1
    assert all(c["residual"] > 0 and c["score"] is not None for c in candidates)
    for k in range(2):
        assert Image.open(folder / "candidates" / f"{k:02d}.png").size[0] > 300


def test_a_distillation_starts_from_direct(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    steps = ["--field.steps", "4", "--refine.steps", "2", "--mesh.resolution", "48"]
    result = polymode("generate", "a wooden barrel", "--init", "direct", *steps, *SHORT, "--out", str(folder))
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    stages = list(dict.fromkeys(e["stage"] for e in events if e["event"] == "step"))
    assert stages == ["sample", "fuse1", "field", "refine1", "refine2"]
    start = next(e for e in events if e["event"] == "step" and e["stage"] == "field")
    last = [e for e in events if e["event"] == "step" and e["stage"] == "fuse1"][-1]
    assert abs(start["opacity"] - last["opacity"]) < 0.25 * last["opacity"], "the field starts as the fused shape"
    assert start["t"] <= squared_cosine_schedule().t_at(1.5), "more noise would lose the shape"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--direct.views", "6"], "use 4, 5 or 8"),
        (["--best-of", "0"], "use 1 to 64"),
        (["--init", "direct"], "leave --init out"),
    ],
)
def test_wrong_direct_options_are_one_sentence(arguments: list[str], says: str) -> None:
    result = polymode("generate", "a barrel", "--method", "direct", *arguments)
    assert result.returncode == 2 and says in result.stderr and len(result.stderr.strip().splitlines()) == 1
