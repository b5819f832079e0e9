"""Colour for a given geometry, against mixtures whose conditional is known in closed form."""

from __future__ import annotations

import pytest
import torch

from guidance.paint import paint_frames
from guidance.prior import squared_cosine_schedule
from guidance.priors.analytic import AnalyticPrior, Mixture
from tests.tiny import tiny_prior

SIZE, VIEWS, STD = 4, 2, 0.02


def frames_of(color: tuple[float, float, float], alpha: float) -> torch.Tensor:
    """(7, SIZE, SIZE) in [0, 1]: one colour, alpha in the left half, one normal."""
    x = torch.full((7, SIZE, SIZE), 0.5)
    x[:3, :, : SIZE // 2] = torch.tensor(color)[:, None, None]
    x[3] = 0
    x[3, :, : SIZE // 2] = alpha
    x[6, :, : SIZE // 2] = alpha
    return x


def prior_of(*kinds: torch.Tensor) -> AnalyticPrior:
    mixture = Mixture(torch.ones(len(kinds)), 2 * torch.stack(kinds) - 1, torch.full((len(kinds),), STD))
    blank = Mixture(torch.ones(1), torch.zeros(1, 7, SIZE, SIZE), torch.ones(1))
    return AnalyticPrior({"x": mixture, "": blank}, (7, SIZE, SIZE), squared_cosine_schedule(), images=True)


def painted(prior: AnalyticPrior, given: torch.Tensor, seed: int = 0, clean: bool = True) -> torch.Tensor:
    noise = torch.randn((VIEWS, 7, SIZE, SIZE), generator=torch.Generator().manual_seed(seed))
    zero = torch.zeros(VIEWS)
    return paint_frames(prior, "x", zero, zero, given.expand(VIEWS, -1, -1, -1), noise, 20, 1.0, clean)


def test_the_colour_is_that_of_the_given_geometry() -> None:
    """Of two kinds of object, thin red and solid blue ones, geometry alone says which it is: every seed gives the
    colour of p(c | g), whatever the frame's own colour was."""
    red, blue = frames_of((0.9, 0.1, 0.1), 0.4), frames_of((0.1, 0.2, 0.9), 1.0)
    prior = prior_of(red, blue)
    for kind, seed in ((red, 0), (red, 1), (blue, 0), (blue, 1)):
        given = kind.clone()
        given[:3] = 0.5
        found = painted(prior, given, seed)
        assert torch.allclose(found[:, 3:], given[3:].expand(VIEWS, -1, -1, -1), atol=1e-6), "geometry is kept"
        assert bool((found[:, :3, :, SIZE // 2 :] == 0.5).all()), "grey where nothing is"
        assert torch.allclose(found[:, :3], kind[:3].expand(VIEWS, -1, -1, -1), atol=0.03)


@pytest.mark.parametrize("clean", [True, False])
def test_both_ways_keep_geometry_and_find_the_only_colour(clean: bool) -> None:
    kind = frames_of((0.2, 0.7, 0.3), 1.0)
    given = kind.clone()
    given[:3] = 0.5
    found = painted(prior_of(kind), given, 3, clean)
    assert torch.allclose(found[:, 3:], given[3:].expand(VIEWS, -1, -1, -1), atol=1e-6)
    assert torch.allclose(found[:, :3], kind[:3].expand(VIEWS, -1, -1, -1), atol=0.03)
    assert bool((found[:, :3, :, SIZE // 2 :] == 0.5).all()), "grey where nothing is"


def test_where_geometry_says_nothing_both_colours_are_drawn() -> None:
    red, blue = frames_of((0.9, 0.1, 0.1), 1.0), frames_of((0.1, 0.2, 0.9), 1.0)
    prior = prior_of(red, blue)
    reds = [float(painted(prior, red, seed)[0, 0, 0, 0]) for seed in range(12)]
    assert min(reds) < 0.2 and max(reds) > 0.8
    assert all(r < 0.2 or r > 0.8 for r in reds), "nothing between the two"


def test_the_analytic_conditional_is_the_posterior_of_a_gaussian() -> None:
    """One Gaussian: E[c | c_t, g] = (s^2 mu + a std^2 c_t) / (a^2 std^2 + s^2), whatever g is; and g is returned."""
    mean = frames_of((0.3, 0.6, 0.9), 1.0)
    prior, t = prior_of(mean), torch.tensor([400])
    z = torch.randn((1, 7, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    found = prior.predict_color(z, t, [prior.condition("x", None)])[0].x0
    a, s = prior.schedule.a(t), prior.schedule.s(t)
    mu = (2 * mean - 1)[None]
    expected = (s**2 * mu + a * STD**2 * z) / (a**2 * STD**2 + s**2)
    assert torch.allclose(found[:, :3], expected[:, :3], atol=1e-5)
    assert torch.allclose(found[:, 3:], z[:, 3:], atol=1e-5)


def test_the_embedded_prior_is_told_that_geometry_is_clean() -> None:
    prior = tiny_prior()
    z = torch.randn((4, 7, 32, 32), generator=torch.Generator().manual_seed(0))
    t = torch.full((4,), 600)
    from guidance.prior import Views

    condition = prior.condition("a red car", Views(torch.arange(4) * 1.57, torch.zeros(4), 4))
    with_own = prior.predict_color(z, t, [condition, condition])
    assert torch.allclose(with_own[0].x0, with_own[1].x0, atol=1e-5)
    assert not torch.allclose(with_own[0].x0, prior.predict(z, t, [condition])[0].x0, atol=1e-4)
