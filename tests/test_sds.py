"""SDS against closed forms (guidance sheet U1.1 to U1.4), CFG, the gradient injection, and a toy with four modes."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guidance.cfg import cfg
from guidance.inject import inject
from guidance.method import Asked, Evidence, Guided, Setup, Shown, draw_noise
from guidance.prior import NoiseSchedule, Prediction, Views, scaled_linear_schedule, squared_cosine_schedule
from guidance.priors.analytic import AnalyticPrior, Mixture
from guidance.schedule import LinearAnneal, SqrtAnneal, Uniform, Weight, s2_weight, uniform_weight
from guidance.sds import SDS, sds, sds_eps
from guidance.start import start

SD = scaled_linear_schedule()
COSINE = squared_cosine_schedule()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def gaussian(mean: torch.Tensor | float, std: float, shape: tuple[int, int, int] = (1, 1, 1)) -> Mixture:
    means = torch.as_tensor(mean, dtype=torch.float64).expand(1, *shape)
    return Mixture(torch.ones(1), means, torch.tensor([std], dtype=torch.float64))


def guided(prior: AnalyticPrior, z: torch.Tensor, t: torch.Tensor, cond: Mixture, uncond: Mixture, scale: float):
    return cfg(*prior.predict(z, t, [cond, uncond]), scale=scale)


def seen(
    prediction: Prediction, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule
) -> Evidence:
    return Evidence(x, x, noise, t, schedule, prediction, prediction, prediction)


def sds_gradient(
    prediction: Prediction, noise: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule, weight: Weight = s2_weight
) -> torch.Tensor:
    return weight(t, schedule) * sds_eps(seen(prediction, noise, noise, t, schedule))


def sds_gradient_x0(
    prediction: Prediction, x: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule, weight: Weight = s2_weight
) -> torch.Tensor:
    return weight(t, schedule) * sds(seen(prediction, x, x, t, schedule))


def sds_step(
    prior: AnalyticPrior,
    frames: torch.Tensor,
    pair: tuple[Mixture, Mixture | None],
    t: torch.Tensor,
    g: torch.Generator,
    scale: float,
    weight: Weight = s2_weight,
    frames_per_noise: int = 1,
) -> Guided:
    """One step of the method, of the mixtures `pair` (conditional, unconditional)."""
    prior = replace(prior, mixtures={"y": pair[0], "": pair[1] or pair[0]})
    setup = Setup(prior, Asked("y"), scale, weight=weight, frames_per_noise=frames_per_noise)
    views = Views(torch.zeros(len(frames)), torch.zeros(len(frames)))
    return start(SDS(), setup).step(Shown(frames, views, t), g)


# --- U1.1: the injection ---


def test_injected_gradient_is_exact_where_the_target_trick_loses_digits() -> None:
    x = (1 + randn(4, 3, 8, 8).float().abs()).requires_grad_()
    g = 1e-6 * randn(4, 3, 8, 8, seed=1).float()
    inject(x, g).backward()
    torch.testing.assert_close(x.grad, g / 4, rtol=1e-6, atol=0)
    y = x.detach().clone().requires_grad_()
    (0.5 * (y - (y - g).detach()).square().sum() / 4).backward()
    assert (y.grad - g / 4).norm() > 0.01 * (g / 4).norm()


def test_injected_loss_has_the_target_tricks_value_and_gradient() -> None:
    x, g = randn(5, 2, 3, 3).requires_grad_(), randn(5, 2, 3, 3, seed=1)
    loss = inject(x, g)
    trick = 0.5 * (x - (x - g).detach()).square().sum() / 5
    torch.testing.assert_close(loss, trick, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(trick, x), rtol=1e-9, atol=1e-12)


def test_injection_obeys_loss_weights_and_refuses_to_broadcast() -> None:
    x, g = randn(2, 1, 2, 2).requires_grad_(), randn(2, 1, 2, 2, seed=1)
    (3 * inject(x, g)).backward()
    torch.testing.assert_close(x.grad, 1.5 * g)
    with pytest.raises(ValueError, match="must be equal"):
        inject(x, g[:1])


def test_injection_does_not_hide_nan() -> None:
    x, g = randn(2, 1, 2, 2).requires_grad_(), randn(2, 1, 2, 2, seed=1)
    g[0, 0, 1, 1] = math.nan
    loss = inject(x, g)
    loss.backward()
    assert loss.isnan()
    torch.testing.assert_close(x.grad, g / 2, equal_nan=True)


# --- U1.2: mean and variance of the gradient under a Gaussian prior ---


@pytest.mark.parametrize("t", [50, 500, 900])
@pytest.mark.parametrize("c", [0.1, 0.5, 1.0])
def test_gaussian_prior_mean_and_spread(t: int, c: float) -> None:
    """E[e - eps] = s a (x - mu) / v and std a^2 c^2 / v a dimension; without "-eps" the std is s^2 / v."""
    n, x, mu = 200_000, 1.3, -0.4
    step = torch.full((n,), t)
    a, s = SD.a(step[:1]).double().item(), SD.s(step[:1]).double().item()
    v = a**2 * c**2 + s**2
    prior = AnalyticPrior({"": gaussian(mu, c)}, (1, 1, 1))
    clean, noise = torch.full((n, 1, 1, 1), x, dtype=torch.float64), randn(n, 1, 1, 1)

    def gradient(noise: torch.Tensor) -> torch.Tensor:
        (prediction,) = prior.predict(SD.add_noise(clean, noise, step), step, [prior.condition("", None)])
        return sds_gradient(prediction, noise, step, SD, uniform_weight)

    plus, minus = gradient(noise), gradient(-noise)
    # antithetic pairs: the gradient is affine in the noise, so that its mean and slope are exact in every pair
    mean = torch.full_like(noise, s * a * (x - mu) / v)
    torch.testing.assert_close((plus + minus) / 2, mean, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close((plus - minus) / 2, -(a**2 * c**2 / v) * noise, rtol=1e-6, atol=1e-9)
    assert plus.std().item() == pytest.approx(a**2 * c**2 / v, rel=6e-3)
    assert (plus + noise).std().item() == pytest.approx(s**2 / v, rel=6e-3)


def test_minus_eps_raises_the_variance_at_small_t() -> None:
    """The sheet's numbers at t = 50, c = .5: .831 with "-eps", .169 without."""
    step = torch.tensor([50])
    noise, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    prior = AnalyticPrior({"": gaussian(0.0, 0.5)}, (1, 1, 1))
    (prediction,) = prior.predict(SD.add_noise(zero, noise, step), step, [prior.condition("", None)])
    assert sds_gradient(prediction, noise, step, SD, uniform_weight).item() == pytest.approx(-0.831, abs=5e-4)
    assert prediction.eps.item() == pytest.approx(0.169, abs=5e-4)


# --- U1.3: where CFG balances ---


def balance(t: int, mu_c: float, c_c: float, mu_u: float, c_u: float, scale: float) -> float:
    """x* = [w mu_c / v_c - (w - 1) mu_u / v_u] / [w / v_c - (w - 1) / v_u]."""
    abar = SD.abar[t].item()
    v_c, v_u = abar * c_c**2 + 1 - abar, abar * c_u**2 + 1 - abar
    return (scale * mu_c / v_c - (scale - 1) * mu_u / v_u) / (scale / v_c - (scale - 1) / v_u)


def mean_gradient(x: float, t: int, cond: Mixture, uncond: Mixture, scale: float) -> float:
    """E_eps[g] at x: one antithetic pair is exact for Gaussians."""
    prior, step = AnalyticPrior({"c": cond, "": uncond}, (1, 1, 1)), torch.tensor([t, t])
    clean = torch.full((2, 1, 1, 1), x, dtype=torch.float64)
    noise = torch.tensor([0.7, -0.7], dtype=torch.float64).view(2, 1, 1, 1)
    prediction = guided(prior, SD.add_noise(clean, noise, step), step, cond, uncond, scale)
    return sds_gradient(prediction, noise, step, SD).mean().item()


@pytest.mark.parametrize(("t", "expected"), [(50, 1.33), (500, 3.20), (900, 7.02)])
def test_guided_fixed_point(t: int, expected: float) -> None:
    cond, uncond = gaussian(1.0, 0.5), gaussian(0.0, 1.0)
    star = balance(t, 1.0, 0.5, 0.0, 1.0, 7.5)
    assert star == pytest.approx(expected, abs=5e-3)
    assert mean_gradient(star, t, cond, uncond, 7.5) == pytest.approx(0, abs=1e-6)
    assert mean_gradient(star + 0.1, t, cond, uncond, 7.5) > 1e-4  # descent leads back to it, from both sides
    assert mean_gradient(star - 0.1, t, cond, uncond, 7.5) < -1e-4


@settings(max_examples=40, deadline=None)
@given(
    t=st.integers(20, 980),
    scale=st.floats(0, 30),
    mu_u=st.floats(-2, 2),
    mu_c=st.floats(-2, 2),
    c=st.floats(0.05, 2),
)
def test_equal_widths_saturate_linearly_in_the_scale(t, scale, mu_u, mu_c, c) -> None:
    star = mu_u + scale * (mu_c - mu_u)
    assert mean_gradient(star, t, gaussian(mu_c, c), gaussian(mu_u, c), scale) == pytest.approx(0, abs=1e-5)


def test_descent_reaches_the_guided_fixed_point() -> None:
    """2,000 independent descents by `sds_step`, with fresh noise: their average settles at x* = 3.20."""
    prior = AnalyticPrior({"c": gaussian(1.0, 0.5), "": gaussian(0.0, 1.0)}, (1, 1, 1))
    pair = (prior.condition("c", None), prior.condition("", None))
    x, t, g = torch.zeros(2000, 1, 1, 1, dtype=torch.float64), torch.full((2000,), 500), generator()
    for _ in range(120):
        x.requires_grad_()
        (grad,) = torch.autograd.grad(sds_step(prior, x, pair, t, g, scale=7.5).loss, x)
        x = x.detach() - 0.1 * len(x) * grad
    assert x.mean().item() == pytest.approx(3.20, abs=0.03)


# --- U1.4: at the target ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_gradient_at_a_point_target(dtype: torch.dtype) -> None:
    mean = randn(3, 4, 4)
    prior = AnalyticPrior({"": gaussian(mean, 0.0, (3, 4, 4))}, (3, 4, 4), COSINE)
    t = torch.tensor([0, 20, 300, 700, 950, 999])
    x, noise = mean.to(dtype).repeat(6, 1, 1, 1), randn(6, 3, 4, 4, seed=1, dtype=dtype)
    (prediction,) = prior.predict(COSINE.add_noise(x, noise, t), t, [prior.condition("", None)])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for gradient in (sds_gradient(prediction, noise, t, COSINE), sds_gradient_x0(prediction, x, t, COSINE)):
        assert gradient.abs().max() < tolerance


# --- the estimator's two forms, and CFG ---


@settings(max_examples=40, deadline=None)
@given(
    t=st.integers(0, 999),
    scale=st.floats(-10, 110),
    seed=st.integers(0, 99),
    schedule=st.sampled_from([SD, COSINE]),
    weight=st.sampled_from([s2_weight, uniform_weight]),
)
def test_noise_form_and_x0_form_agree(t, scale, seed, schedule, weight) -> None:
    cond, uncond = gaussian(0.5, 0.3, (2, 2, 2)), gaussian(-0.2, 1.0, (2, 2, 2))
    prior = AnalyticPrior({"c": cond, "": uncond}, (2, 2, 2), schedule)
    x, noise, step = randn(3, 2, 2, 2, seed=seed), randn(3, 2, 2, 2, seed=seed + 1000), torch.full((3,), t)
    prediction = guided(prior, schedule.add_noise(x, noise, step), step, cond, uncond, scale)
    by_noise = sds_gradient(prediction, noise, step, schedule, weight)
    torch.testing.assert_close(sds_gradient_x0(prediction, x, step, schedule, weight), by_noise, rtol=1e-6, atol=1e-8)


def test_x0_form_keeps_its_digits_where_a_vanishes() -> None:
    t, x, noise = torch.tensor([999]), randn(1, 3, 4, 4), randn(1, 3, 4, 4, seed=1)
    target = randn(1, 3, 4, 4, seed=2)
    exact = (COSINE.abar[999] / (1 - COSINE.abar[999])).sqrt() * (x - target)
    z = COSINE.add_noise(x.float(), noise.float(), t)
    prediction = Prediction.from_x0(target.float(), z, t, COSINE)

    def error(gradient: torch.Tensor) -> float:
        return ((gradient.double() - exact).norm() / exact.norm()).item()

    assert error(sds_gradient_x0(prediction, x.float(), t, COSINE, uniform_weight)) < 1e-6
    assert error(sds_gradient(prediction, noise.float(), t, COSINE, uniform_weight)) > 1e-4


def test_estimator_weighs_each_frame_by_its_own_time_step() -> None:
    prediction, noise = Prediction(randn(3, 2, 1, 1), randn(3, 2, 1, 1, seed=1)), randn(3, 2, 1, 1, seed=2)
    t = torch.tensor([20, 500, 980])
    together = sds_gradient(prediction, noise, t, SD)
    for i in range(3):
        one = slice(i, i + 1)
        alone = sds_gradient(Prediction(prediction.x0[one], prediction.eps[one]), noise[one], t[one], SD)
        assert torch.equal(alone[0], together[i])
        expected = (1 - SD.abar[t[i]]) * (prediction.eps[i] - noise[i])
        torch.testing.assert_close(together[i], expected, rtol=1e-6, atol=1e-7)


def test_cfg_is_form_a() -> None:
    cond = Prediction(randn(2, 3, 2, 2), randn(2, 3, 2, 2, seed=1))
    uncond = Prediction(randn(2, 3, 2, 2, seed=2), randn(2, 3, 2, 2, seed=3))
    for form in ("x0", "eps"):
        c, u = getattr(cond, form), getattr(uncond, form)
        assert torch.equal(getattr(cfg(cond, uncond, 0.0), form), u)
        torch.testing.assert_close(getattr(cfg(cond, uncond, 1.0), form), c, rtol=1e-12, atol=1e-12)
        # Form B's scale 6.5 is Form A's 7.5
        torch.testing.assert_close(getattr(cfg(cond, uncond, 7.5), form), c + 6.5 * (c - u), rtol=1e-9, atol=1e-12)


def test_cfg_keeps_both_forms_consistent() -> None:
    cond, uncond, t, z = gaussian(1.0, 0.2), gaussian(0.0, 1.0), torch.tensor([40, 700]), randn(2, 1, 1, 1)
    prior = AnalyticPrior({"c": cond, "": uncond}, (1, 1, 1))
    prediction = guided(prior, z, t, cond, uncond, 7.5)
    torch.testing.assert_close(SD.add_noise(prediction.x0, prediction.eps, t), z, rtol=1e-9, atol=1e-9)


# --- noise ---


def test_noise_is_the_generators_and_shared_only_when_asked() -> None:
    x = torch.zeros(4, 1, 64, 64)
    own = draw_noise(x, generator())
    assert torch.equal(own, draw_noise(x, generator())) and not torch.equal(own, draw_noise(x, generator(1)))
    correlation = torch.corrcoef(own.flatten(1)) - torch.eye(4)
    assert correlation.abs().max() < 0.1 and own.std().item() == pytest.approx(1, abs=0.03)
    shared = draw_noise(x, generator(), frames_per_noise=2)
    assert torch.equal(shared[0], shared[1]) and torch.equal(shared[2], shared[3])
    assert not torch.equal(shared[1], shared[2])
    for group in (3, 0):
        with pytest.raises(ValueError, match=f"cannot share noise in groups of {group}"):
            draw_noise(x, generator(), frames_per_noise=group)


# --- the step ---


@dataclass(frozen=True)
class CountingPrior(AnalyticPrior):
    """The analytic prior, noting how many conditions each call was asked for."""

    calls: list[int] = field(default_factory=list)

    def predict(self, z, t, conditions):
        self.calls.append(len(conditions))
        return super().predict(z, t, conditions)


@pytest.mark.parametrize("weight", [s2_weight, uniform_weight])
@pytest.mark.parametrize(("scale", "conditions"), [(7.5, 2), (0.0, 2), (1.0, 1)])
def test_step_is_the_formula_in_one_call(scale: float, conditions: int, weight) -> None:
    cond, uncond = gaussian(0.5, 0.3, (3, 4, 4)), gaussian(-0.2, 1.0, (3, 4, 4))
    prior = CountingPrior({"c": cond, "": uncond}, (3, 4, 4), COSINE, images=True)
    frames = torch.rand(4, 3, 4, 4, generator=generator(), dtype=torch.float64).requires_grad_()
    t = torch.tensor([100, 300, 500, 900])
    step = sds_step(prior, frames, (cond, uncond), t, generator(7), scale, weight, frames_per_noise=2)
    assert prior.calls == [conditions]

    x = 2 * frames.detach() - 1
    noise = draw_noise(x, generator(7), frames_per_noise=2)
    z = COSINE.add_noise(x, noise, t)
    e_c, e_u = (prior.predict(z, t, [mixture])[0] for mixture in (cond, uncond))
    w = (1 - COSINE.abar[t])[:, None, None, None] if weight is s2_weight else 1.0
    g = w * (e_u.eps + scale * (e_c.eps - e_u.eps) - noise)
    step.loss.backward()
    torch.testing.assert_close(frames.grad, 2 * g / 4, rtol=1e-5, atol=1e-7)  # 2: through encode
    torch.testing.assert_close(step.loss, 0.5 * g.square().sum() / 4, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.gradient_norm, g.flatten(1).norm(dim=1), rtol=1e-5, atol=0)
    torch.testing.assert_close(step.x0, e_u.x0 + scale * (e_c.x0 - e_u.x0), rtol=1e-9, atol=1e-9)
    assert torch.equal(step.t, t)
    assert not step.x0.requires_grad and not step.gradient_norm.requires_grad


def test_step_repeats_with_its_generator_and_refuses_a_wrong_t() -> None:
    prior = AnalyticPrior({"": gaussian(0.5, 0.3)}, (1, 1, 1))
    frames, pair = randn(3, 1, 1, 1, dtype=torch.float32), (gaussian(0.5, 0.3), gaussian(0.0, 1.0))
    one, two, other = (
        sds_step(prior, frames, pair, torch.tensor([9, 99, 999]), generator(seed), 3.0) for seed in (1, 1, 2)
    )
    assert torch.equal(one.loss, two.loss) and torch.equal(one.x0, two.x0)
    assert not torch.equal(one.x0, other.x0) and one.loss.dtype == torch.float32
    with pytest.raises(ValueError, match="there are 3 frames"):
        sds_step(prior, frames, pair, torch.tensor([9]), generator(), 3.0)


def test_step_lets_nan_through() -> None:
    prior = AnalyticPrior({"": gaussian(0.5, 0.3)}, (1, 1, 1))
    frames = torch.tensor([0.1, math.nan, 0.3]).view(3, 1, 1, 1).requires_grad_()
    step = sds_step(prior, frames, (gaussian(0.5, 0.3), None), torch.full((3,), 300), generator(), 1.0)
    step.loss.backward()
    assert step.loss.isnan() and step.gradient_norm.isnan().tolist() == [False, True, False]
    assert frames.grad.flatten().isnan().tolist() == [False, True, False]


# --- toy A of the sheet: four modes on the unit circle, guided against a broad unconditional density ---

ANGLES = torch.arange(4) * math.pi / 2
MODES = torch.stack([ANGLES.cos(), ANGLES.sin()], -1)[:, :, None, None]
FOUR = Mixture(torch.tensor([0.4, 0.3, 0.2, 0.1]), MODES, torch.full((4,), 0.1))
BROAD = Mixture(
    torch.tensor([0.1, 0.1, 0.1, 0.1, 0.6]),
    torch.cat([MODES, torch.zeros(1, 2, 1, 1)]),
    torch.tensor([0.1, 0.1, 0.1, 0.1, 1.0]),
)
LOWEST = SD.sigma(torch.tensor([20])).item()


def distil(policy, scale: float, particles: int = 128, steps: int = 400, lr: float = 0.05) -> torch.Tensor:
    """SDS from one blob, each particle an optimisation of its own: (particles, 2) end points."""
    prior, g = AnalyticPrior({"four": FOUR, "": BROAD}, (2, 1, 1)), generator()
    pair = (prior.condition("four", None), prior.condition("", None))
    x = (0.01 * torch.randn(particles, 2, 1, 1, generator=g)).requires_grad_()
    adam = torch.optim.Adam([x], lr=lr, betas=(0.9, 0.99), eps=1e-15)
    for i in range(steps):
        t = policy.draw(i, steps, particles, prior.schedule, g)
        adam.zero_grad()
        sds_step(prior, x, pair, t, g, scale).loss.backward()
        adam.step()
    return x.detach().flatten(1)


def shares(points: torch.Tensor) -> torch.Tensor:
    """(4,) share of the particles within .35 of each mode."""
    return (torch.cdist(points, MODES.flatten(1)) < 0.35).float().mean(0)


@pytest.mark.parametrize("policy", [LinearAnneal(LOWEST), SqrtAnneal(LOWEST)])
def test_annealed_sds_ends_in_a_single_mode(policy) -> None:
    share = shares(distil(policy, 7.5))
    assert share.sum() >= 0.9
    assert (share > 0.01).sum() == 1


def test_uniform_sds_stays_at_the_average() -> None:
    unguided = distil(Uniform(LOWEST), 1.0)
    assert shares(unguided).sum() <= 0.05
    torch.testing.assert_close(unguided.mean(0), torch.tensor([0.2, 0.2]), atol=0.12, rtol=0)  # sum pi_k mu_k
    guided_ = distil(Uniform(LOWEST), 7.5)
    assert shares(guided_).sum() <= 0.25
    assert unguided.std(0).max() < 0.2 and guided_.std(0).max() < 0.2
