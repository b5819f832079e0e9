"""Recipes, run folders, generators and the collapse detectors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.errors import Cancelled, CollapseError, UsageError
from app.optimize import PATIENCE, Optimization, StepResult, optimize
from app.recipe_yaml import load_recipe, to_yaml
from app.recipes import PRESETS, FieldRecipe, Recipe, check, preset
from app.run.folder import Run, create_run, generators, slug
from app.run.progress import Progress
from app.run.work import Clock, Work
from renderers.frames import Rendered
from tests.tiny import tiny_prior


def test_presets_are_valid_and_survive_yaml(tmp_path: Path) -> None:
    for name in PRESETS:
        recipe = preset(name, "a blue car")
        check(recipe)
        (tmp_path / "config.yaml").write_text(to_yaml(recipe))
        assert load_recipe(tmp_path / "config.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{prompt: a, colour: red}", "unknown field 'colour'"),
        ("{prompt: a, seed: high}", "seed must be int"),
        ("{prompt: a, field: 3}", "must be a mapping"),
        ("[", "not a Polymode recipe"),
        ("!!python/object/apply:os.system ['true']", "not a Polymode recipe"),
    ],
)
def test_a_wrong_recipe_file_is_one_sentence(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UsageError, match=match) as caught:
        load_recipe(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)


def test_numbers_out_of_range_are_refused() -> None:
    for field in (
        FieldRecipe(steps=0),
        FieldRecipe(resolution=4),
        FieldRecipe(anneal="cubic"),
        FieldRecipe(sigma_min=20.0),
        FieldRecipe(sigma_min=1.6),  # above sigma_init
    ):
        with pytest.raises(UsageError):
            check(Recipe("a car", field=field))
    with pytest.raises(UsageError, match="seed"):
        check(Recipe("a car", seed=-1))


def test_named_generators_differ_and_repeat() -> None:
    a, b, other = generators(7), generators(7), generators(8)
    draws = {k: torch.rand(4, generator=g) for k, g in a.items()}
    assert len({tuple(d.tolist()) for d in draws.values()}) == len(draws)
    for k, g in b.items():
        assert torch.equal(draws[k], torch.rand(4, generator=g))
        assert not torch.equal(draws[k], torch.rand(4, generator=other[k]))


def test_slugs_are_file_names() -> None:
    assert slug("A red/../mushroom!") == "a-red-mushroom"
    assert slug("日本") == "日本" and len(slug("word " * 50)) <= 40


def test_a_run_folder_never_overwrites(tmp_path: Path) -> None:
    run = create_run(Recipe("a car"), tmp_path / "a")
    assert (run.folder / "config.yaml").is_file()
    with pytest.raises(UsageError, match="not empty"):
        create_run(Recipe("a car"), tmp_path / "a")


def _run(tmp_path: Path) -> Run:
    return create_run(Recipe("a car"), tmp_path / "run")


def _step(parameter: Tensor, alpha: float, scale: float = 1.0):
    def step(i: int) -> StepResult:
        loss = scale * (parameter - i).square().sum()
        blank = torch.zeros(1, 3, 8, 8)
        rendered = Rendered(blank, torch.full((1, 1, 8, 8), alpha), blank, blank[:, :1])
        return StepResult(loss, rendered, blank, {})

    return step


def _loop(run: Run, state: Optimization, steps: int, step, stop_at: int = -1) -> None:
    seen = iter(range(steps))
    optimize(run, "toy", state, steps, step, lambda *_: None, Progress(quiet=True), lambda: next(seen) == stop_at)


@pytest.mark.parametrize(
    ("alpha", "scale", "match"),
    [
        (0.0, 1.0, "vanished"),
        (0.1, 1.0, "vanished"),
        (1.0, 1.0, "filled all of space"),
        (0.5, 0.0, "gradient vanished"),
        (0.5, float("nan"), "NaN"),
    ],
)
def test_collapse_stops_the_run_with_a_sentence(tmp_path: Path, alpha: float, scale: float, match: str) -> None:
    p = torch.ones(3, requires_grad=True)
    with pytest.raises(CollapseError, match=match) as caught:
        _loop(_run(tmp_path), Optimization({"p": p}, {"p": 0.1}, generators(0)), 50, _step(p, alpha, scale))
    assert caught.value.exit_code == 5 and "seed" in str(caught.value)


def test_a_mesh_may_fill_the_picture(tmp_path: Path) -> None:
    p = torch.ones(3, requires_grad=True)
    state = Optimization({"p": p}, {"p": 0.1}, generators(0))
    nothing = Progress(quiet=True)
    optimize(_run(tmp_path), "toy", state, 50, _step(p, 1.0), lambda *_: None, nothing, lambda: False, solid=True)
    assert state.movers[0].state[p]["step"] == 50


def test_a_healthy_run_and_a_short_dip_do_not_stop(tmp_path: Path) -> None:
    p = torch.ones(3, requires_grad=True)
    healthy, empty = _step(p, 0.3), _step(p, 0.0)
    step = lambda i: empty(i) if 5 <= i < 5 + PATIENCE - 1 else healthy(i)  # noqa: E731
    _loop(_run(tmp_path), Optimization({"p": p}, {"p": 0.1}, generators(0)), 50, step)


def test_cancel_and_resume_continue_bit_by_bit(tmp_path: Path) -> None:
    def fresh() -> tuple[Tensor, Optimization]:
        p = torch.ones(3, requires_grad=True)
        return p, Optimization({"p": p}, {"p": 0.1}, generators(0))

    def noisy(p: Tensor, state: Optimization):
        plain = _step(p, 0.3)

        def step(i: int) -> StepResult:
            r = plain(i)
            return dataclasses.replace(r, loss=r.loss * torch.rand(1, generator=state.generators["noise"]).sum())

        return step

    whole, state = fresh()
    _loop(create_run(Recipe("a"), tmp_path / "whole"), state, 20, noisy(whole, state))
    run = create_run(Recipe("a"), tmp_path / "parts")
    p, state = fresh()
    with pytest.raises(Cancelled, match="step 8 of the toy stage") as caught:
        _loop(run, state, 20, noisy(p, state), stop_at=7)
    assert caught.value.exit_code == 130
    p, state = fresh()
    saved = run.load_checkpoint("toy")
    assert saved is not None and saved[1] == 8
    state.restore(*saved)
    _loop(run, state, 20, noisy(p, state))
    assert torch.equal(p, whole)


def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    run = _run(tmp_path)
    run.save_checkpoint("toy", {"x": torch.ones(100)}, 3)
    path = run.checkpoints / "toy.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UsageError, match="damaged"):
        run.load_checkpoint("toy")


def test_a_checkpoint_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    """As after a change of config.yaml."""
    run = _run(tmp_path)

    def begin(size: int) -> None:
        p = torch.ones(size, requires_grad=True)
        state = Optimization({"p": p}, {"p": 0.1}, generators(0))
        device = torch.device("cpu")
        job = Work(Recipe("a car"), run, Progress(quiet=True), Clock(), lambda: False, tiny_prior(), device)
        job.loop("toy", state, 2, _step(p, 0.3))

    begin(3)
    with pytest.raises(UsageError, match=r"toy\.safetensors does not fit config\.yaml; .*\.$"):
        begin(4)
    begin(3)


@pytest.mark.parametrize("text", ["[" * 20_000, "field: {steps: 1e999}", "seed: .nan", "prompt: \udcff"])
def test_a_strange_recipe_file_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"^.*config\.yaml is not a Polymode recipe \(.*\); correct or replace it\.$"):
        load_recipe(tmp_path / "config.yaml")
    (tmp_path / "folder" / "config.yaml").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(tmp_path / "folder" / "config.yaml")
