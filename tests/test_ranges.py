"""Every number and every name with choices of a run: out of range it is refused in one sentence, in range it runs."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import pytest
import torch

from app.cli import Compare
from app.compare.command import checked
from app.errors import UsageError
from app.evaluate.command import check as check_evaluate
from app.evaluate.options import Evaluate
from app.methods import METHODS
from app.ranges import NOT_ABOVE, RANGES, check_numbers, numbers
from app.recipe_yaml import load_recipe, to_yaml
from app.recipes import GuideRecipe, PictureRecipe, Recipe, check, preset
from app.run.folder import generators
from app.settings import CHOICES, replaced, settings
from app.stages.field import field_step, start_field
from app.stages.reference import Anchor
from app.stages.views import start_method
from guidance.method import Shown
from guidance.prior import Views
from guidance.settings import CFG_KINDS
from renderers.cameras import make_cameras
from tests.tiny import tiny_prior

PRIOR = functools.cache(tiny_prior)
PLAIN = Recipe("a cow")
NAMES = [name for name, _ in numbers(PLAIN)]
COSTLY = ("lora.warm", "lora.updates", "bank", "knots", "offsets", "rings", "sdi.steps", "lora.rank")
PATHS = {name: s.path for name, s in settings().items()} | {"seed": ("seed",)}
PATHS |= {n.removeprefix("picture."): p for n, p in PATHS.items() if n.startswith("picture.")}
PATHS |= {"count": ("picture", "count")}


def with_number(name: str, value: float, recipe: Recipe = PLAIN) -> Recipe:
    return replaced(recipe, PATHS[name], value)


def test_every_number_has_a_range_and_every_preset_is_in_it() -> None:
    assert set(NAMES) | {"azimuth", "elevation"} == set(RANGES) and len(NAMES) > 90
    assert all(low < high and math.isfinite(low) and math.isfinite(high) for low, high in RANGES.values())
    assert {n for pair in NOT_ABOVE for n in pair} <= set(RANGES)
    for name in ("draft", "standard", "high"):
        check_numbers(preset(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_number_out_of_range_is_refused(name: str) -> None:
    low, high = RANGES[name]
    for value in (math.nan, math.inf, -math.inf, low - 1e-3 - abs(low) / 99, high + 1 + abs(high) / 99):
        with pytest.raises(UsageError, match=rf"^--{name} .* is out of range; use .*\.$"):
            check(with_number(name, value))


@pytest.mark.parametrize("lower, upper", NOT_ABOVE)
def test_two_ends_are_in_order(lower: str, upper: str) -> None:
    top = RANGES[lower][1]
    recipe = with_number(upper, RANGES[upper][0], with_number(lower, min(top, RANGES[upper][0] * 2)))
    with pytest.raises(UsageError, match=rf"^--{lower} .* is above --\S+ .*\.$"):
        check(recipe)


@pytest.mark.parametrize("angles", [(math.nan,), (0.0, 400.0), (-math.inf,)])
def test_angles_of_pictures_are_numbers(angles: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="--azimuth"):
        check(Recipe(picture=PictureRecipe(azimuth=angles, count=len(angles))))


@pytest.mark.parametrize("name", CHOICES)
def test_a_name_that_is_no_choice_is_refused(name: str, tmp_path: Any) -> None:
    path = {"fdistill.divergence": ("methods", "fdistill", "divergence")}.get(name, tuple(name.split(".")))
    for word in ("foo", "", "SDS"):
        recipe = replaced(PLAIN, path, word)
        with pytest.raises(UsageError, match=r"^Unknown .*; choose .*\.$"):
            check(recipe)
        (tmp_path / "config.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        with pytest.raises(UsageError, match="Unknown"):
            check(load_recipe(tmp_path / "config.yaml"))


def test_perp_neg_wants_something_to_push_away_from() -> None:
    guide = GuideRecipe(cfg=dataclasses.replace(PLAIN.guide.cfg, kind="perp-neg"))
    with pytest.raises(UsageError, match=r"give --guide\.negative"):
        check(dataclasses.replace(PLAIN, guide=guide))
    for more in ({"negative": "a blurry cow"}, {"view_words": True}):
        check(dataclasses.replace(PLAIN, guide=dataclasses.replace(guide, **more)))
    check(dataclasses.replace(PLAIN, guide=guide, method="direct"))  # which asks nobody for guidance of this kind


def one_step(recipe: Recipe) -> torch.Tensor:
    """A step of the recipe's method on four noisy frames."""
    check(recipe)
    prior = PRIOR()
    method = start_method(recipe, prior, recipe.field.scale, recipe.seed)
    g = torch.Generator().manual_seed(1)
    views = method.views(g) or Views(torch.arange(4) * math.pi / 2, torch.full((4,), 0.3), 4)
    x = torch.rand((4, *prior.frame_shape), generator=g).requires_grad_(True)
    out = method.step(Shown(x, views, torch.full((4,), 500), 0.5), g)
    out.loss.backward()
    assert x.grad is not None
    return x.grad


def ends() -> list[tuple[str, float]]:
    """The bounds of every number of the methods and of guidance, but for those that only take long; of one LoRA."""
    mine = [n for n in NAMES if n.split(".")[0] in METHODS or n.startswith("guide.")]
    mine = [n for n in mine if not n.startswith(("esd.lora.", "fdistill.lora."))]
    return [(n, RANGES[n][0]) for n in mine] + [(n, RANGES[n][1]) for n in mine if not n.endswith(COSTLY)]


@pytest.mark.parametrize("name, value", ends())
def test_a_number_at_its_bound_runs(name: str, value: float) -> None:
    method = name.split(".")[0] if name.split(".")[0] in METHODS else "sds"
    kinds = {"rescale": "rescale", "perp-weight": "perp-neg"}
    kind = kinds.get(name.split(".")[-1], "zeresfdg") if name.startswith("guide.cfg.") else "plain"
    assert kind in CFG_KINDS
    recipe = dataclasses.replace(PLAIN, method=method, guide=GuideRecipe(negative="a dog"))
    recipe = replaced(recipe, ("guide", "cfg", "kind"), kind)
    for small in ("vsd.lora.warm", "esd.lora.warm", "fdistill.lora.warm"):
        recipe = with_number(small, 1, recipe)
    recipe = with_number("dsd.knots", 3, with_number("fdistill.bank", 1, recipe))
    recipe = with_number(name, type(dict(numbers(PLAIN))[name])(value), recipe)
    for lower, upper in NOT_ABOVE:  # the other end follows
        low, high = dict(numbers(recipe))[lower], dict(numbers(recipe))[upper]
        if low > high:
            recipe = with_number(upper if name == lower else lower, value, recipe)
    assert torch.isfinite(one_step(recipe)).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_usual_numbers_run(method: str) -> None:
    """Otherwise nothing above says anything."""
    recipe = dataclasses.replace(PLAIN, method=method)
    for small in ("vsd.lora.warm", "esd.lora.warm", "fdistill.lora.warm"):
        recipe = with_number(small, 1, recipe)
    assert one_step(with_number("dsd.knots", 3, recipe)).abs().sum() > 0


def test_dsd_in_pixels_looks_from_where_the_frames_do() -> None:
    a = Compare(("a cow",), methods="dsd")
    for elevation in (15.0, 20.0, -30.0):
        image = dataclasses.replace(a.image, elevation=elevation)
        found = checked(dataclasses.replace(a, image=image)).recipe("a cow", "dsd", 0)
        assert found.methods.dsd.elevation == elevation
        solid = dataclasses.replace(a, image=image, space="3d").recipe("a cow", "dsd", 0)
        assert solid.methods.dsd.elevation == 15.0
    dsd = dataclasses.replace(a.settings.dsd, elevation=20.0)
    own = dataclasses.replace(a, settings=dataclasses.replace(a.settings, dsd=dsd))
    with pytest.raises(UsageError, match=r"^--dsd\.elevation 20 is not --image\.elevation 15"):
        checked(own)
    checked(dataclasses.replace(own, methods="sds"))
    checked(dataclasses.replace(own, image=dataclasses.replace(a.image, elevation=20.0)))


@pytest.mark.parametrize("name", ["rate", "scale", "sigma_max", "sigma_min", "elevation"])
def test_numbers_of_comparisons_and_evaluations_have_ranges_too(name: str) -> None:
    for value in (math.nan, math.inf, -1e9):
        with pytest.raises(UsageError, match=r"out of range"):
            checked(Compare(("a cow",), image=dataclasses.replace(Compare(()).image, **{name: value})))
    for more in ({"scale": math.nan}, {"guide_above": -1.0}, {"elevation": math.inf}, {"seed": 2**70}):
        with pytest.raises(UsageError, match=r"out of range"):
            check_evaluate(Evaluate("prior", **more))


@pytest.mark.parametrize("pictures", [1, 4, 5, 8])
def test_a_field_is_pulled_by_more_pictures_than_it_is_rendered_for_guidance(pictures: int) -> None:
    """And with as many or fewer the random stream is what it was: torch.rand of the rendered frames."""
    prior = PRIOR()
    recipe = dataclasses.replace(PLAIN.field, resolution=16, samples=8, steps=2)
    streams = generators(0)
    field, state = start_field(recipe, streams, torch.device("cpu"))
    azimuth = torch.linspace(0, 5, pictures)
    target = torch.rand(pictures, 7, 32, 32, generator=torch.Generator().manual_seed(0))
    anchor = Anchor(make_cameras(azimuth, torch.full_like(azimuth, 0.2)), target, PictureRecipe(weight_end=1.0))
    step = field_step(field, state, recipe, prior, start_method(PLAIN, prior, 1.0, 0), anchor=anchor)
    step(0).loss.backward()
    assert field.raw_color.grad is not None and bool(field.raw_color.grad.abs().sum() > 0)
    expected = generators(0)["jitter"]
    torch.rand(max(4, pictures), 32, 32, generator=expected)
    assert torch.equal(expected.get_state(), streams["jitter"].get_state())
