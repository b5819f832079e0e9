"""CSD, SSD, NFSD, the kinds of classifier-free guidance, schedules, clipping and view words against closed forms
(guidance sheet U2.1 to U2.5, 6.2 to 6.4, 6.6, 6.7, 6.9, 6.10, 6.14). Exact scores, no network."""

from __future__ import annotations

import math

import pytest
import torch

from guidance.cfg import Cfg, CfgState, detailed, dot, negatives, perp_neg, perpendicular, rescale, std, zero_projected
from guidance.clip import clip_elements, clip_pixels
from guidance.csd import CSD, csd, csd_negative
from guidance.method import Asked, Evidence, Setup, Shown
from guidance.nfsd import nfsd
from guidance.prior import Prediction, Views, scaled_linear_schedule, squared_cosine_schedule
from guidance.priors.analytic import AnalyticPrior, Mixture, denoise, empirical
from guidance.sample import slerp
from guidance.schedule import DreamTime
from guidance.sds import sds_eps
from guidance.ssd import seeking, ssd
from guidance.start import start
from guidance.view_words import view_negatives, view_word, with_view_words

SD, COSINE = scaled_linear_schedule(), squared_cosine_schedule()
D = (1, 8, 8)  # 64 numbers
M = 0.572  # of SSD and NFSD: the paper's t = 200


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: float, std: float, shape: tuple[int, int, int] = D) -> Mixture:
    means = torch.full((1, *shape), mean, dtype=torch.float64)
    return Mixture(torch.ones(1), means, torch.tensor([std], dtype=torch.float64))


def evidence(
    t: torch.Tensor,
    cond: Mixture,
    uncond: Mixture,
    x: float = 1.0,
    negative: Mixture | None = None,
    shape: tuple[int, int, int] = D,
    seed: int = 0,
    scale: float = 1.0,
) -> Evidence:
    """Frames at x everywhere, noised to t (B,)."""
    clean, noise = torch.full((len(t), *shape), x, dtype=torch.float64), randn(len(t), *shape, seed=seed)
    a, s = SD.a(t).double(), SD.s(t).double()
    z = a * clean + s * noise
    c, u = denoise(cond, z, a, s), denoise(uncond, z, a, s)
    n = None if negative is None else denoise(negative, z, a, s)
    guided = Prediction(u.x0 + scale * (c.x0 - u.x0), u.eps + scale * (c.eps - u.eps))
    return Evidence(clean, z, noise, t, SD, c, u, guided, n)


# --- SSD ---


def test_above_m_ssd_is_csd_and_below_it_is_orthogonal_to_the_noise_with_the_norm_of_h() -> None:
    t = torch.tensor([900, 50, 500, 150])
    e = evidence(t, gaussian(0.0, 0.5), gaussian(-1.0, 1.0))
    g, h = ssd(M)(e), csd(e)
    assert torch.equal(g[[0, 2]], h[[0, 2]])
    low = [1, 3]
    assert dot(g, e.noise)[low].abs().max() < 1e-9
    torch.testing.assert_close(dot(g, g)[low], dot(h, h)[low])
    assert not torch.allclose(g[low], h[low])


def test_forced_coefficients_give_the_conditional_score_and_sds() -> None:
    e = evidence(torch.tensor([120]), gaussian(0.0, 0.5), gaussian(-1.0, 1.0), scale=7.5)
    h = e.cond.eps - e.uncond.eps
    torch.testing.assert_close(e.cond.eps - 1.0 * e.noise + 6.5 * h, sds_eps(e))  # r = 1, plus w' h
    r = dot(e.cond.eps, e.noise) / dot(e.noise, e.noise)
    torch.testing.assert_close(seeking(e) + r * e.noise, e.cond.eps)  # r = 0 leaves e_c


@pytest.mark.parametrize(("t", "expected"), [(50, 0.169), (200, 0.567), (500, 0.913), (900, 0.996)])
def test_r_estimates_the_optimal_control_variate(t: int, expected: float) -> None:
    """d = 64, c = .5: mean r = s^2 / v, E[e~] = (1 - 1/d) s a (x - mu) / v, cos(e~, x - mu) = .992 at every t."""
    n, x = 4000, 1.0
    e = evidence(torch.full((n,), t), gaussian(0.0, 0.5), gaussian(0.0, 0.5), x)
    r = dot(e.cond.eps, e.noise) / dot(e.noise, e.noise)
    assert r.mean().item() == pytest.approx(expected, abs=4e-3)
    abar = SD.abar[t].item()
    a, s, v = math.sqrt(abar), math.sqrt(1 - abar), abar * 0.25 + 1 - abar
    low = seeking(e)
    assert low.mean().item() == pytest.approx((1 - 1 / 64) * s * a * x / v, rel=4e-3)
    cosine = torch.nn.functional.cosine_similarity(low.flatten(1), torch.ones(n, 64, dtype=torch.float64))
    assert cosine.mean().item() == pytest.approx(0.992, abs=2e-3)


def test_ssd_does_not_mix_the_batch_and_is_homogeneous() -> None:
    t = torch.tensor([50, 150, 900])
    e = evidence(t, gaussian(0.0, 0.5), gaussian(-1.0, 1.0))
    together = ssd(M)(e)
    for i in range(3):
        one = slice(i, i + 1)

        def cut(p: Prediction, one: slice = one) -> Prediction:
            return Prediction(p.x0[one], p.eps[one])

        alone = Evidence(e.x[one], e.z[one], e.noise[one], t[one], SD, cut(e.cond), cut(e.uncond), cut(e.guided))
        torch.testing.assert_close(ssd(M)(alone)[0], together[i], rtol=1e-12, atol=0)
    double = [Prediction(2 * p.x0, 2 * p.eps) for p in (e.cond, e.uncond, e.guided)]
    torch.testing.assert_close(ssd(M)(Evidence(e.x, e.z, e.noise, t, SD, *double)), 2 * together)


# --- CSD and NFSD ---


def test_csd_is_zero_where_the_prompt_says_nothing_and_a_constant_drift_between_equal_widths() -> None:
    t = torch.tensor([50, 500, 900])
    same = gaussian(0.3, 0.5)
    assert csd(evidence(t, same, same)).abs().max() == 0
    here, there = (csd(evidence(t, gaussian(1.0, 0.5), gaussian(0.0, 0.5), x)) for x in (0.0, 5.0))
    torch.testing.assert_close(here, there)
    assert bool((here < 0).all())  # descent goes up, towards and past the prompt: no fixed point


def test_csds_coefficients_sum_to_zero() -> None:
    e = evidence(torch.tensor([300]), gaussian(0.0, 0.5), gaussian(1.0, 1.0), negative=gaussian(2.0, 1.0))
    shift = randn(1, *D, seed=5)
    moved = [Prediction(p.x0, p.eps + shift) for p in (e.cond, e.uncond, e.guided, e.negative) if p is not None]
    other = Evidence(e.x, e.z, e.noise, e.t, SD, *moved)
    torch.testing.assert_close(csd_negative(0.7, 0.4)(e), csd_negative(0.7, 0.4)(other))


def test_csd_is_the_limit_of_sds() -> None:
    e = evidence(torch.tensor([300]), gaussian(0.0, 0.5), gaussian(1.0, 1.0), scale=1e7)
    torch.testing.assert_close(sds_eps(e) / 1e7, csd(e), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", [50, 150])
def test_nfsd_has_the_mean_of_sds_and_another_spread(t: int) -> None:
    """Below its threshold: std s^2 / v a dimension instead of a^2 c^2 / v."""
    n, scale, c = 4000, 7.5, 0.5
    both = gaussian(0.0, c), gaussian(-0.5, c)
    e = evidence(torch.full((n,), t), *both, scale=scale, negative=gaussian(0.0, 1.0))
    g, plain = nfsd(scale, 0.572)(e), sds_eps(e)
    torch.testing.assert_close(g, plain + e.noise)
    abar = SD.abar[t].item()
    v = abar * c**2 + 1 - abar
    assert g.std(0).mean().item() == pytest.approx((1 - abar) / v, rel=2e-2)
    assert plain.std(0).mean().item() == pytest.approx(abar * c**2 / v, rel=2e-2)


def test_nfsd_subtracts_the_negative_above_its_threshold() -> None:
    t = torch.tensor([150, 700])
    e = evidence(t, gaussian(0.0, 0.5), gaussian(-0.5, 0.5), negative=gaussian(1.0, 1.0))
    assert e.negative is not None
    g, h = nfsd(3.0, 0.572)(e), csd(e)
    torch.testing.assert_close(g[0], e.uncond.eps[0] + 3 * h[0])
    torch.testing.assert_close(g[1], e.uncond.eps[1] - e.negative.eps[1] + 3 * h[1])


# --- classifier-free guidance ---


def test_rescale_gives_the_conditional_deviation_or_leaves_it() -> None:
    guided, cond = 3 * randn(4, 3, 8, 8), randn(4, 3, 8, 8, seed=1)
    torch.testing.assert_close(std(rescale(guided, cond, 1.0)), std(cond))
    assert torch.equal(rescale(guided, cond, 0.0), guided)
    torch.testing.assert_close(std(rescale(guided, cond, 1.0, 2), 2), std(cond, 2))


def test_one_deviation_over_an_objects_views() -> None:
    """A bright and a dark view of one object keep their proportion: one factor for both."""
    cond = torch.cat([randn(1, 3, 8, 8), 0.2 * randn(1, 3, 8, 8, seed=1), randn(2, 3, 8, 8, seed=2)])
    guided = torch.cat([2 * cond[:1], 5 * cond[1:2], 3 * cond[2:]])
    factor = rescale(guided, cond, 1.0, 2) / guided
    assert torch.allclose(factor[0], factor[1]) and not torch.allclose(factor[1], factor[2])
    alone = rescale(guided, cond, 1.0) / guided
    assert not torch.allclose(alone[0], alone[1])
    e, u = randn(4, 3, 8, 8, seed=3), randn(4, 3, 8, 8, seed=4)
    off = perpendicular(e - u, cond - u, 2)
    assert dot(off, cond - u, 2).abs().max() < 1e-9 < dot(off, cond - u).abs().max()
    alpha = dot(cond, u, 2) / dot(u, u, 2)
    torch.testing.assert_close(zero_projected(cond, u, 1.0, 1.0, 1.0, 2), cond)
    torch.testing.assert_close(zero_projected(cond, u, 3.0, 1.0, 1.0, 2), alpha * u + 3 * (cond - alpha * u))
    out = detailed(cond, u, 100.0, 1.0, 1.0, 2, mix=0.0)
    torch.testing.assert_close(dot(out, out, 2).sqrt(), 1.25 * dot(cond, cond, 2).sqrt())


def test_rescale_acts_on_x0_over_all_views() -> None:
    """At large noise nearly all of eps is the noise: a ratio of its deviations is 1 whatever the scale."""
    pattern = Mixture(torch.ones(1), 0.1 * randn(1, *D, seed=7), torch.tensor([0.1], dtype=torch.float64))
    e = evidence(torch.full((4,), 800), pattern, gaussian(0.0, 0.1), x=0.0, scale=7.5)
    state = CfgState(Cfg(kind="rescale", rescale=1.0))
    out = state.guide(e.cond, e.uncond, [], e.z, e.t, SD, 7.5, 4)
    torch.testing.assert_close(std(out.x0, 4), std(e.cond.x0, 4))
    assert float((std(out.x0, 4) / std(e.guided.x0, 4)).max()) < 0.9
    assert float((std(e.cond.eps, 4) / std(e.guided.eps, 4)).min()) > 0.95
    torch.testing.assert_close(out.x0, Prediction.from_eps(out.eps, e.z, e.t, SD).x0, atol=1e-4, rtol=1e-4)


def test_perp_neg_is_orthogonal_and_ignores_parallel_negatives() -> None:
    cond, uncond, e = randn(4, 3, 8, 8), randn(4, 3, 8, 8, seed=1), randn(4, 3, 8, 8, seed=2)
    p = cond - uncond
    assert dot(perpendicular(e - uncond, p), p).abs().max() < 1e-9
    parallel = uncond + torch.tensor([0.5, 1.0, -2.0, 3.0]).double()[:, None, None, None] * p
    weight = torch.full((4,), -1.0)
    torch.testing.assert_close(perp_neg(cond, uncond, [(parallel, weight)], 7.5), uncond + 7.5 * p)
    off = perp_neg(cond, uncond, [(e, weight)], 7.5) - (uncond + 7.5 * p)
    torch.testing.assert_close(off, -7.5 * perpendicular(e - uncond, p))


def test_view_negatives_weights() -> None:
    """f_fs(1) = 0: at the front nothing is pushed from front; a back view: side -.394, front -1.967."""
    azimuth = torch.tensor([0.0, math.pi, math.pi / 2])
    (front_words, front), (side_words, side) = view_negatives("a bee", Views(azimuth, torch.zeros(3)))
    assert front_words[0] == "a bee, front view" and side_words[0] == "a bee, side view"
    assert front[0].item() == pytest.approx(0, abs=1e-3)
    assert (side[1].item(), front[1].item()) == (pytest.approx(-0.394, abs=1e-3), pytest.approx(-1.967, abs=1e-3))
    assert bool((front <= 0).all()) and bool((side <= 0).all())


def test_perp_neg_needs_a_negative() -> None:
    views = Views(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"give --guide\.negative"):
        negatives(Cfg(kind="perp-neg"), "a bee", "", views, False)
    (one,) = negatives(Cfg(kind="perp-neg"), "a bee", "ugly", views, False)
    assert one.weights.tolist() == [-1, -1] and one.prompts == ["ugly", "ugly"]


def test_zero_projection_and_its_identity() -> None:
    cond, uncond = randn(4, 3, 8, 8), randn(4, 3, 8, 8, seed=1)
    alpha = dot(cond, uncond) / dot(uncond, uncond)
    assert dot(cond - alpha * uncond, uncond).abs().max() < 1e-9
    torch.testing.assert_close(zero_projected(cond, uncond, 1.0, 1.0, 1.0), cond)


def test_detail_mode_is_capped() -> None:
    cond, uncond = randn(4, 3, 8, 8), randn(4, 3, 8, 8, seed=1)
    out, filtered = detailed(cond, uncond, 100.0, 1.0, 1.0, mix=0.0), cond
    torch.testing.assert_close(dot(out, out).sqrt(), 1.25 * dot(filtered, filtered).sqrt())


def test_the_mode_has_hysteresis_and_a_memory_for_each_bucket() -> None:
    state = CfgState(Cfg(kind="zeresfdg", memory=0.0))
    assert [state.observe(3, share) for share in (0.5, 0.61, 0.5, 0.44)] == [False, True, True, False]
    state.observe(3, 0.7)
    assert not state.observe(4, 0.5) and state.observe(3, 0.5)
    again = CfgState(Cfg(kind="zeresfdg", memory=0.0))
    again.restore(state.tensors())
    assert again.observe(3, 0.5) and not again.observe(4, 0.5)


@pytest.mark.parametrize("kind", ["plain", "rescale", "perp-neg", "zeresfdg"])
def test_every_kind_runs_in_a_step_and_keeps_both_forms_consistent(kind: str) -> None:
    shape = (3, 8, 8)
    mixtures = {"y": gaussian(0.5, 0.3, shape), "": gaussian(0.0, 1.0, shape), "ugly": gaussian(-1.0, 0.5, shape)}
    prior = AnalyticPrior(mixtures, shape)
    setup = Setup(prior, Asked("y", "ugly"), 7.5, Cfg(kind=kind))
    x = randn(2, *shape).requires_grad_()
    views, t = Views(torch.zeros(2), torch.zeros(2)), torch.tensor([300, 300])
    out = start(CSD(), setup).step(Shown(x, views, t), torch.Generator().manual_seed(0))
    out.loss.backward()
    assert x.grad is not None and bool(x.grad.isfinite().all()) and float(x.grad.abs().max()) > 0


# --- clipping, schedules, words ---


def test_clipping_is_bounded_idempotent_and_by_pixel_keeps_directions() -> None:
    g = 3 * randn(2, 3, 4, 4)
    once = clip_elements(g, 0.5)
    assert once.abs().max() <= 0.5 and torch.equal(clip_elements(once, 0.5), once)
    pixels = clip_pixels(g, 0.5)
    assert pixels.abs().max() <= 0.5 + 1e-12
    torch.testing.assert_close(clip_pixels(pixels, 0.5), pixels)
    cosine = torch.nn.functional.cosine_similarity(g, pixels, dim=1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    small = 0.01 * g
    torch.testing.assert_close(clip_pixels(small, 0.5), small)


@pytest.mark.parametrize("schedule", [SD, COSINE])
def test_dreamtime_never_rises_and_dwells_where_w_is_flat(schedule) -> None:
    policy, g = DreamTime(0.138, 13.04), torch.Generator()
    ts = torch.tensor([int(policy.draw(i, 400, 1, schedule, g)) for i in range(401)])
    assert bool((ts.diff() <= 0).all())
    sigma = schedule.sigma(ts).flatten()
    assert sigma[0] > 12 and sigma[-1] < 0.16
    middle = ((sigma > 1.617) & (sigma < 5.12)).float().mean()  # Stable Diffusion's t 500 to 800
    t = torch.arange(20.0, 981)
    w = torch.where(t > 800, torch.exp(-((t - 800) ** 2) / (2 * 300**2)), torch.ones_like(t))
    w = torch.where(t < 500, torch.exp(-((t - 500) ** 2) / (2 * 100**2)), w)
    assert middle.item() == pytest.approx(float(w[(t > 500) & (t < 800)].sum() / w.sum()), abs=0.01)


def test_view_words() -> None:
    degrees = math.radians
    assert view_word(degrees(350), 0) == view_word(degrees(-10), 0) == "front"
    assert view_word(degrees(180), 0) == "back" and view_word(degrees(90), 0) == "side"
    assert view_word(degrees(180), degrees(61)) == "overhead"
    views = Views(torch.tensor([0.0, math.pi]), torch.zeros(2))
    assert with_view_words("a bee", views) == ["a bee, front view", "a bee, back view"]


def test_a_prompt_a_frame_reaches_the_analytic_prior() -> None:
    mixtures = {"left": gaussian(-1.0, 0.1), "right": gaussian(1.0, 0.1)}
    prior = AnalyticPrior(mixtures, D)
    z, t = torch.zeros(2, *D, dtype=torch.float64), torch.tensor([900, 900])
    (p,) = prior.predict(z, t, [prior.condition(["left", "right"], None)])
    assert p.x0[0].mean() < -0.9 and p.x0[1].mean() > 0.9


# --- the empirical denoiser, and interpolated seeds ---


def test_the_empirical_denoiser_is_a_mean_shift_step() -> None:
    images, t = randn(5, 2, 3, 3), torch.tensor([400])
    z = randn(1, 2, 3, 3, seed=3)
    a, s = SD.a(t).double(), SD.s(t).double()
    got = denoise(empirical(images), z, a, s).x0
    sigma = (s / a).item()
    weights = torch.softmax(-((z / a - images).square().sum((1, 2, 3))) / (2 * sigma**2), 0)
    torch.testing.assert_close(got[0], (weights[:, None, None, None] * images).sum(0), rtol=1e-6, atol=1e-9)


def test_slerp_stays_on_the_shell() -> None:
    a, b = randn(3, 7, 16, 16), randn(3, 7, 16, 16, seed=1)
    assert torch.equal(slerp(a, b, 0.0), a) or torch.allclose(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    middle = slerp(a, b, 0.5).flatten(1).norm(dim=1)
    torch.testing.assert_close(middle, (a.flatten(1).norm(dim=1) + b.flatten(1).norm(dim=1)) / 2)
    assert bool((((a + b) / 2).flatten(1).norm(dim=1) < 0.8 * middle).all())  # the straight line's middle is too short
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)
