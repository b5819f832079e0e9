"""SDI and DSD against closed forms (guidance sheet U4.1 to U4.6), and DSD's sets on a tiny joint prior."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from guidance.dsd import DSD, Path, PathGuidance, dsd, falling_knots, simulate, time_ahead
from guidance.method import Asked, Drawn, Setup, Shown
from guidance.prior import Prediction, Views, bounded, scaled_linear_schedule
from guidance.priors.analytic import AnalyticPrior, Mixture, denoise
from guidance.sample import ddim_sample, knots
from guidance.schedule import LinearAnneal
from guidance.sdi import SDI, InversionGuidance, invert, sdi
from guidance.settings import CFG_KINDS, Cfg
from guidance.start import start
from tests.tiny import tiny_prior

SD = scaled_linear_schedule()
KNOTS = [999, *range(899, 0, -100)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def predictor(mixture: Mixture):
    def predict(z: Tensor, t: Tensor) -> Prediction:
        return denoise(mixture, z, SD.a(t).to(z), SD.s(t).to(z))

    return predict


def ring(k: int = 8, std: float = 0.08) -> Mixture:
    angle = torch.arange(k) * 2 * math.pi / k
    means = torch.stack([angle.cos(), angle.sin()], 1)[:, :, None, None]
    return Mixture(torch.ones(k), means.double(), torch.full((k,), std))


def test_one_step_predictions_walk_as_ddim_does() -> None:
    """x' = x - sigma' (e' - e): the same knots, the same points."""
    predict, seed = predictor(ring()), randn(16, 2, 1, 1)
    path = simulate(predict, seed, KNOTS, SD)
    x = path.x0[0]
    for k, knot in enumerate(KNOTS[1:], 1):
        sigma = SD.sigma(torch.tensor([knot])).double()
        x = x - sigma * (path.noise[k] - path.noise[k - 1])
        torch.testing.assert_close(x, path.x0[k], rtol=1e-5, atol=1e-6)  # look-ups of a and s are float32


def test_no_gradient_at_the_same_time_and_the_ddim_increment_on_the_path() -> None:
    predict = predictor(ring())
    x, n, t = randn(16, 2, 1, 1), randn(16, 2, 1, 1, seed=1), torch.full((16,), 300)
    here = predict(SD.add_noise(x, n, t), t)
    assert dsd(here, here, x, t, t, SD).abs().max() == 0
    path = simulate(predict, n, KNOTS, SD)
    t_d, t = torch.full((16,), KNOTS[4]), torch.full((16,), KNOTS[5])
    on = path.x0[4]  # the render is the path's own prediction
    zd, zt = SD.add_noise(on, path.noise[4], t_d), SD.add_noise(on, path.noise[4], t)
    g = dsd(predict(zt, t), predict(zd, t_d), on, t, t_d, SD)
    torch.testing.assert_close(on - SD.sigma(t) * g, path.x0[5], rtol=1e-5, atol=1e-5)


def test_other_w2_is_not_zero_at_the_same_time() -> None:
    """The released code's mismatch: w = 7.5 against w2 = 1."""
    wide = Mixture(torch.ones(1), torch.zeros(1, 2, 1, 1), torch.ones(1))
    x, n, t = randn(16, 2, 1, 1), randn(16, 2, 1, 1, seed=1), torch.full((16,), 300)
    z = SD.add_noise(x, n, t)
    c, u = predictor(ring())(z, t), predictor(wide)(z, t)
    guided = Prediction(u.x0 + 7.5 * (c.x0 - u.x0), u.eps + 7.5 * (c.eps - u.eps))
    assert dsd(guided, c, x, t, t, SD).abs().mean() > 0.1


def test_gaussian_inversion_finds_the_exact_noise() -> None:
    """kappa = s (x - mu) / (a c^2) solves kappa = e(a x + s kappa); with one scale for both, the gradient is 0."""
    mu, c, t = 0.3, 0.5, torch.tensor([500])
    mixture = Mixture(torch.ones(1), torch.full((1, 1, 1, 1), mu, dtype=torch.float64), torch.tensor([c]).double())
    predict, x = predictor(mixture), torch.full((1, 1, 1, 1), 0.9, dtype=torch.float64)
    a, s = SD.a(t).double(), SD.s(t).double()
    kappa = s * (x - mu) / (a * c**2)
    p = predict(SD.add_noise(x, kappa, t), t)
    torch.testing.assert_close(p.eps, kappa, rtol=1e-5, atol=1e-6)
    assert sdi(p, x, t, SD).abs().max() < 1e-6
    fine = [torch.tensor([k]) for k in range(0, 501, 2)]
    exact = (s * (x - mu) / (a**2 * c**2 + s**2).sqrt() / c).item()  # along the ODE: (z - a mu)/sqrt(v) is constant
    assert invert(predict, x, torch.zeros_like(x), fine, SD).item() == pytest.approx(exact, rel=2e-2)


def test_ddim_maps_gaussian_seeds_to_the_data() -> None:
    c = 0.5
    mixture = Mixture(torch.ones(1), torch.zeros(1, 1, 1, 1).double(), torch.tensor([c]).double())
    seed = randn(4000, 1, 1, 1)
    out = simulate(predictor(mixture), seed, list(range(999, 0, -1)), SD).x0[-1]
    assert out.std().item() == pytest.approx(c, rel=0.03)
    assert torch.corrcoef(torch.stack([seed.flatten(), out.flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize("trial", [0, 1, 2])
def test_dsd_covers_the_ring_and_sds_does_not(trial: int) -> None:
    n, steps, mixture = 64, 600, ring()
    predict = predictor(mixture)
    path = simulate(predict, randn(n, 2, 1, 1, seed=trial), KNOTS, SD)
    policy, g = LinearAnneal(0.138, 13.04), generator(trial)

    def run(gradient) -> Tensor:
        x = (0.01 * randn(n, 2, 1, 1, seed=9)).requires_grad_()
        adam = torch.optim.Adam([x], lr=0.02, betas=(0.9, 0.99), eps=1e-15)
        for i in range(steps):
            t = policy.draw(i, steps, 1, SD, g).expand(n)
            x.grad = gradient(x.detach(), t)
            adam.step()
        return x.detach().flatten(1)

    def follow(x: Tensor, t: Tensor) -> Tensor:
        t_d = torch.full_like(t, time_ahead(int(t[0]), 20, 999, g))
        _, noise = path.at(int(t_d[0]))
        now, ahead = (predict(SD.add_noise(x, noise, at), at) for at in (t, t_d))
        return SD.s(t) ** 2 * dsd(now, ahead, x, t, t_d, SD)

    def sds(x: Tensor, t: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=g, dtype=x.dtype)
        return SD.s(t) ** 2 * (predict(SD.add_noise(x, noise, t), t).eps - noise)

    def inside(points: Tensor) -> Tensor:
        return torch.cdist(points, mixture.means.flatten(1)) < 0.25

    covered, collapsed = inside(run(follow)), inside(run(sds))
    assert int((covered.any(0)).sum()) >= 7 and covered.any(1).double().mean() > 0.95
    assert collapsed.any(1).double().mean() < 0.5


# --- the started methods ---


def analytic() -> AnalyticPrior:
    shape = (2, 1, 1)
    wide = Mixture(torch.ones(1), torch.zeros(1, *shape), torch.ones(1))
    return AnalyticPrior({"y": ring(), "": wide}, shape)


def step_of(guidance, x: Tensor, t: int, seed: int = 0, views: Views | None = None) -> Tensor:
    x = x.clone().requires_grad_()
    views = views or Views(torch.zeros(len(x)), torch.zeros(len(x)))
    guidance.step(Shown(x, views, torch.full((len(x),), t)), generator(seed)).loss.backward()
    assert x.grad is not None
    return x.grad


def test_dsd_repeats_with_its_seed_and_differs_with_another() -> None:
    x = randn(3, 2, 1, 1).float()
    blind = Asked("y", blind=True)
    one, two, other = (step_of(start(DSD(), Setup(analytic(), blind, 3.0, seed=seed)), x, 300) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.allclose(one, other)


def test_sdi_keeps_a_fixed_point_and_is_selectable() -> None:
    """A render at a point target: its inversion and its denoising agree, nothing moves it."""
    shape = (3, 4, 4)
    target = torch.rand(1, *shape, generator=generator())
    point = Mixture(torch.ones(1), target, torch.zeros(1))
    setup = Setup(AnalyticPrior({"y": point, "": point}, shape), Asked("y"), 7.5)
    still = step_of(start(SDI(), setup), target.clone(), 400)
    assert still.abs().max() < 1e-4
    assert step_of(start(SDI(), setup), target + 0.1, 400).abs().max() > 1e-3


def test_knots_fall_and_stay_below_sigma_fourteen() -> None:
    knots = falling_knots(10, SD, 13.04, 0.315)
    assert len(knots) == 10 and all(a > b for a, b in pairwise(knots))
    assert float(SD.sigma(torch.tensor([knots[0]]))) < 14.6


def test_sets_of_a_joint_prior() -> None:
    """Anchors alone, buckets beside the anchors; paths are kept; other cameras are refused."""
    prior = tiny_prior()
    guidance = start(DSD(knots=3), Setup(prior, Asked("a cube"), 2.0))
    assert isinstance(guidance, PathGuidance)
    anchors, bucket = guidance.sets[0], guidance.sets[3]
    x = torch.rand(4, *prior.frame_shape, generator=generator())

    def forwards(views: Views, t: int = 500) -> int:
        before = prior.usage.frame_forwards
        step_of(guidance, x, t, views=views)
        return prior.usage.frame_forwards - before

    path = 8 + 4 + 4  # guided at its first knot alone; below guide_above the unconditional prediction is not asked for
    assert forwards(anchors) == path + 2 * 4
    assert forwards(anchors) == 2 * 4
    assert forwards(anchors, 900) == 2 * 8
    assert forwards(bucket) == 2 * path + 2 * 8
    assert forwards(bucket) == 2 * 8
    seen = {guidance.find(guidance.views(generator(k))) for k in range(40)}  # pyright: ignore[reportArgumentType]
    assert 0 in seen and len(seen) > 5
    with pytest.raises(ValueError, match="fixed cameras"):
        step_of(guidance, x, 500, views=Views(anchors.azimuth + 0.1, anchors.elevation, 4))
    fresh = start(DSD(knots=3), Setup(prior, Asked("a cube"), 2.0))
    torch.testing.assert_close(step_of(fresh, x, 500, views=bucket), step_of(guidance, x, 500, views=bucket))


def test_two_sets_in_one_step() -> None:
    prior = tiny_prior()
    setup = Setup(prior, Asked("a cube"), 2.0)
    guidance = start(DSD(knots=3), setup)
    assert isinstance(guidance, PathGuidance)
    a, b = guidance.sets[0], guidance.sets[1]
    both = Views(torch.cat([a.azimuth, b.azimuth]), torch.cat([a.elevation, b.elevation]), 4)
    x = torch.rand(8, *prior.frame_shape, generator=generator())
    together = step_of(guidance, x, 500, views=both)
    alone = step_of(start(DSD(knots=3), setup), x[:4], 500, views=a)
    torch.testing.assert_close(together[:4], alone / 2, rtol=1e-3, atol=1e-6)  # a mean over twice the frames


@pytest.mark.parametrize("sigma", [0.6, 2.0, 13.0])
def test_an_inverted_noise_is_as_large_as_noise(sigma: float) -> None:
    """Data far narrower than the first knot's noise: there e(a x) is 0, and without noise of its own the inversion
    ends with a standard deviation far below 1."""
    shape, width = (4, 16, 16), 0.02
    target = torch.rand(1, *shape, generator=generator())
    narrow = Mixture(torch.ones(1), target, torch.tensor([width]))
    prior = AnalyticPrior({"y": narrow, "": narrow}, shape)
    guidance = start(SDI(), Setup(prior, Asked("y"), 5.0))
    assert isinstance(guidance, InversionGuidance) and width < SDI().sigma_first / 10
    x = target + width * torch.randn(8, *shape, generator=generator(1))
    t = torch.full((8,), SD.t_at(sigma))
    kappa = invert(predictor(narrow), x, guidance.first_noise(x), guidance.knots(t, generator()), SD)
    assert float(kappa.std()) == pytest.approx(1, abs=0.05)
    assert torch.equal(guidance.first_noise(x), guidance.first_noise(x)), "one noise a seed"
    other = start(SDI(), Setup(prior, Asked("y"), 5.0, seed=1))
    assert isinstance(other, InversionGuidance) and not torch.equal(guidance.first_noise(x), other.first_noise(x))


def path_of(setup: Setup, x: Tensor, k: int = 0) -> Path:
    guidance = start(DSD(knots=3, guide_above=0.0), setup)
    assert isinstance(guidance, PathGuidance)
    return guidance.path(guidance.sets[k], x)[0]


def test_all_stages_of_a_run_follow_one_path() -> None:
    """The refinement's scale is another than the field's; its object must not be."""
    prior = tiny_prior()
    x = torch.rand(4, *prior.frame_shape, generator=generator())
    field, refine = (Setup(prior, Asked("a cube"), scale, run_scale=5.0) for scale in (5.0, 3.0))
    for k in (0, 3):
        assert torch.equal(path_of(field, x, k).x0[-1], path_of(refine, x, k).x0[-1])
    alone = path_of(Setup(prior, Asked("a cube"), 3.0), x)
    assert not torch.equal(alone.x0[-1], path_of(field, x).x0[-1]), "the scale changes the path"


def test_a_run_that_goes_on_from_a_sample_follows_that_sample() -> None:
    prior, views = tiny_prior(), Views(torch.arange(4) * math.pi / 2, torch.full((4,), 0.3), 4)
    noise = torch.randn(4, *prior.frame_shape, generator=generator(5))
    asked = Asked("a cube")
    sampled = ddim_sample(prior, asked.pair(prior, views), noise, 5, 4.0, guide_above=2.0)
    drawn = Drawn(noise, 0.0, 0.3, knots(5), 4.0, 2.0)
    for cfg in (Cfg(), Cfg(kind="zeresfdg")):  # direct's guidance is plain, whatever the stage's is
        setup = Setup(prior, asked, 2.0, cfg, seed=3, run_scale=2.0, drawn=drawn)
        torch.testing.assert_close(path_of(setup, noise).x0[-1], sampled)
    eight = Drawn(torch.cat([noise, noise]), 0.0, 0.3, knots(5), 4.0, 2.0)
    guidance = start(DSD(), Setup(prior, asked, 2.0, drawn=eight))
    assert isinstance(guidance, PathGuidance) and torch.equal(guidance.noise(0, noise), eight.noise[::2])


def test_a_resumed_run_under_zeresfdg_repeats_its_path_bit_for_bit() -> None:
    prior = tiny_prior()
    setup = Setup(prior, Asked("a cube"), 4.0, Cfg(kind="zeresfdg"))
    x = torch.rand(4, *prior.frame_shape, generator=generator())
    first = start(DSD(knots=3, guide_above=0.0), setup)
    assert isinstance(first, PathGuidance)
    for t in (900, 600, 300):
        step_of(first, x, t, views=first.sets[0])
    again = start(DSD(knots=3, guide_above=0.0), setup)
    assert isinstance(again, PathGuidance)
    again.restore(first.tensors())
    for k in (0, 2):
        one, two = (g.path(g.sets[k], x)[0] for g in (first, again))
        assert all(torch.equal(a, b) for a, b in zip(one.x0, two.x0, strict=True))
    assert torch.equal(step_of(first, x, 200, views=first.sets[0]), step_of(again, x, 200, views=first.sets[0])), (
        "and so does the next step"
    )


@pytest.mark.parametrize("kind", CFG_KINDS)
def test_scale_one_under_a_sigma_is_the_conditional_prediction_for_every_kind(kind: str) -> None:
    prior = tiny_prior()
    setup = Setup(prior, Asked("a cube", "ugly"), 5.0, Cfg(kind=kind))
    guidance = start(DSD(guide_above=3.0), setup)
    assert isinstance(guidance, PathGuidance)
    views, z = guidance.sets[0], torch.randn(4, *prior.frame_shape, generator=generator())
    low, high = (torch.full((4,), prior.schedule.t_at(s)) for s in (1.0, 8.0))
    for t, same in ((low, True), (high, False)):
        cond = bounded(prior.predict(z, t, [prior.condition("a cube", views)])[0], z, t, prior)
        assert torch.equal(guidance.predict(z, t, views, None).x0, cond.x0) == same
