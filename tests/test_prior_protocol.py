"""Noise schedules, prediction conversions, and the analytic prior against densities computed another way."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as D

from guidance.prior import Prediction, Prior, Views, scaled_linear_schedule, squared_cosine_schedule
from guidance.priors.analytic import AnalyticPrior, Mixture

SD = scaled_linear_schedule()
COSINE = squared_cosine_schedule()
SCHEDULES = pytest.mark.parametrize("schedule", [SD, COSINE], ids=["scaled_linear", "squared_cosine"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def crowd(components: int = 3, seed: int = 1) -> Mixture:
    """A float64 mixture of (2, 2, 1) frames with unequal weights, means and widths."""
    weights = torch.rand(components, generator=generator(seed), dtype=torch.float64) + 0.1
    std = torch.rand(components, generator=generator(seed + 1), dtype=torch.float64) + 0.05
    return Mixture(weights, randn(components, 2, 2, 1, seed=seed + 2), std)


PRIOR = AnalyticPrior({"crowd": crowd(), "": crowd(5, seed=9)}, (2, 2, 1))


# --- noise schedules ---


@pytest.mark.parametrize(
    ("t", "a", "s", "sigma"),
    [
        (20, 0.9906, 0.1367, 0.138),
        (50, 0.9755, 0.2201, 0.226),
        (100, 0.9456, 0.3252, 0.344),
        (200, 0.8682, 0.4963, 0.572),
        (320, 0.7462, 0.6657, 0.892),
        (500, 0.5257, 0.8507, 1.618),
        (680, 0.3087, 0.9512, 3.081),
        (800, 0.1920, 0.9814, 5.111),
        (900, 0.1190, 0.9929, 8.347),
        (980, 0.0764, 0.9971, 13.04),
        (999, 0.0683, 0.9977, 14.62),
    ],
)
def test_scaled_linear_is_stable_diffusions(t: int, a: float, s: float, sigma: float) -> None:
    step = torch.tensor([t])
    assert SD.a(step).item() == pytest.approx(a, abs=6e-5)
    assert SD.s(step).item() == pytest.approx(s, abs=6e-5)
    assert SD.sigma(step).item() == pytest.approx(sigma, rel=2e-3)


@pytest.mark.parametrize(("t_sd", "t_cosine"), [(200, 324), (320, 459), (500, 644), (980, 950)])
def test_time_steps_map_between_schedules_by_sigma(t_sd: int, t_cosine: int) -> None:
    assert COSINE.t_at(SD.sigma(torch.tensor([t_sd])).item()) == t_cosine


@SCHEDULES
def test_schedules_are_monotone_and_variance_preserving(schedule) -> None:
    t = torch.arange(len(schedule))
    assert len(schedule) == 1000 and schedule.abar.dtype == torch.float64
    assert (schedule.abar.diff() < 0).all() and 0 < schedule.abar[-1] and schedule.abar[0] < 1
    torch.testing.assert_close(schedule.a(t) ** 2 + schedule.s(t) ** 2, torch.ones(1000, 1, 1, 1))
    torch.testing.assert_close(schedule.sigma(t), schedule.s(t) / schedule.a(t))


@SCHEDULES
def test_t_at_inverts_sigma_and_clamps_to_the_ends(schedule) -> None:
    assert [schedule.t_at(float(sigma)) for sigma in schedule.sigma(torch.arange(1000)).flatten()] == list(range(1000))
    assert schedule.t_at(1e-9) == 0 and schedule.t_at(1e9) == 999
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma must be positive"):
            schedule.t_at(sigma)


@SCHEDULES
def test_add_noise_uses_each_frames_own_time_step(schedule) -> None:
    x, noise, t = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1), torch.tensor([0, 500, 999])
    z = schedule.add_noise(x, noise, t)
    for i in range(3):
        abar = schedule.abar[t[i]].item()
        torch.testing.assert_close(z[i], math.sqrt(abar) * x[i] + math.sqrt(1 - abar) * noise[i], rtol=1e-6, atol=1e-6)


# --- predictions ---


@settings(max_examples=40, deadline=None)
@given(t=st.integers(0, 980), seed=st.integers(0, 99), cosine=st.booleans())
def test_both_forms_of_a_prediction_recombine_to_z(t: int, seed: int, cosine: bool) -> None:
    schedule = COSINE if cosine else SD
    step = torch.tensor([t])
    z, guess = randn(1, 3, 2, 2, seed=seed), randn(1, 3, 2, 2, seed=seed + 1000)
    by_eps = Prediction.from_eps(guess, z, step, schedule)
    by_x0 = Prediction.from_x0(by_eps.x0, z, step, schedule)
    for prediction in (by_eps, by_x0):
        torch.testing.assert_close(schedule.add_noise(prediction.x0, prediction.eps, step), z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(by_x0.eps, guess, rtol=1e-7, atol=1e-7)


def test_an_x0_prediction_stays_itself_where_a_vanishes() -> None:
    t = torch.tensor([999])
    assert COSINE.a(t).item() < 1e-4
    x0, z = randn(1, 3, 4, 4).float(), randn(1, 3, 4, 4, seed=1).float()
    prediction = Prediction.from_x0(x0, z, t, COSINE)
    assert torch.equal(prediction.x0, x0)
    torch.testing.assert_close(prediction.eps, z, atol=1e-3, rtol=0)


# --- the analytic prior ---


@pytest.mark.parametrize("prior", [PRIOR], ids=lambda prior: prior.name)
def test_prior_has_the_protocols_members(prior) -> None:
    for method in ("encode", "condition", "predict"):
        theirs, ours = inspect.signature(getattr(Prior, method)), inspect.signature(getattr(type(prior), method))
        assert list(ours.parameters) == list(theirs.parameters)
    assert prior.name and len(prior.frame_shape) == 3 and len(prior.schedule) == 1000


@settings(max_examples=30, deadline=None)
@given(t=st.integers(1, 999), seed=st.integers(0, 99), cosine=st.booleans())
def test_noise_prediction_is_the_score_of_the_noised_density(t: int, seed: int, cosine: bool) -> None:
    """grad log p_t(z) = -e / s, with p_t from torch.distributions and its gradient from autograd."""
    schedule = COSINE if cosine else SD
    prior = AnalyticPrior(PRIOR.mixtures, PRIOR.frame_shape, schedule)
    mixture = crowd()
    step = torch.full((4,), t)
    a, s = schedule.a(step)[0].double().item(), schedule.s(step)[0].double().item()
    z = (1.5 * randn(4, 2, 2, 1, seed=seed)).requires_grad_()
    width = (a**2 * mixture.std**2 + s**2).sqrt()[:, None].expand(-1, 4)
    components = D.Independent(D.Normal(a * mixture.means.flatten(1), width), 1)
    log_p = D.MixtureSameFamily(D.Categorical(mixture.weights), components).log_prob(z.flatten(1)).sum()
    (score,) = torch.autograd.grad(log_p, z)
    (prediction,) = prior.predict(z, step, [prior.condition("crowd", None)])
    torch.testing.assert_close(prediction.eps, -s * score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(a * prediction.x0 + s * prediction.eps, z.detach(), rtol=1e-9, atol=1e-9)


def test_x0_prediction_is_the_posterior_mean() -> None:
    """E[x | z] by averaging over draws of x, each weighed by the likelihood of z."""
    mixture, t = crowd(), torch.tensor([400])
    a, s = SD.a(t).double(), SD.s(t).double()
    z = torch.tensor([0.4, -0.3, 0.2, 0.5], dtype=torch.float64).view(1, 2, 2, 1)
    k = torch.multinomial(mixture.weights, 400_000, replacement=True, generator=generator())
    x = mixture.means[k] + mixture.std[k, None, None, None] * randn(400_000, 2, 2, 1, seed=5)
    likelihood = torch.softmax(-(z - a * x).square().sum((1, 2, 3)) / (2 * s.flatten() ** 2), 0)
    expected = torch.einsum("n,nchw->chw", likelihood, x)
    (prediction,) = PRIOR.predict(z, t, [mixture])
    torch.testing.assert_close(prediction.x0[0], expected, atol=0.01, rtol=0)


def test_predictions_do_not_depend_on_the_rest_of_the_batch() -> None:
    z, t = randn(6, 2, 2, 1), torch.tensor([3, 120, 400, 401, 800, 999])
    conditions = [PRIOR.condition("crowd", None), PRIOR.condition("", None)]
    together = PRIOR.predict(z, t, conditions)
    for i in range(6):
        alone = PRIOR.predict(z[i : i + 1], t[i : i + 1], conditions)
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one.eps[0], all_.eps[i], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(one.x0[0], all_.x0[i], rtol=1e-12, atol=1e-12)


def test_weights_are_relative_and_precision_follows_z() -> None:
    mixture, z, t = crowd(), randn(2, 2, 2, 1), torch.tensor([10, 600])
    (one,) = PRIOR.predict(z, t, [mixture])
    (scaled,) = PRIOR.predict(z, t, [Mixture(7 * mixture.weights, mixture.means, mixture.std)])
    (single,) = PRIOR.predict(z.float(), t, [mixture])
    torch.testing.assert_close(one.eps, scaled.eps, rtol=1e-12, atol=1e-12)
    assert one.eps.dtype == torch.float64 and single.eps.dtype == torch.float32
    torch.testing.assert_close(single.eps.double(), one.eps, rtol=1e-4, atol=1e-4)


def test_float32_stays_finite_far_away_and_where_a_or_s_vanishes() -> None:
    prior = AnalyticPrior({"": crowd()}, (2, 2, 1), COSINE)
    z = 1e4 * randn(3, 2, 2, 1).float()
    (prediction,) = prior.predict(z, torch.tensor([0, 500, 999]), [crowd()])
    assert prediction.eps.isfinite().all() and prediction.x0.isfinite().all()


def test_predictions_carry_no_gradient_but_encode_does() -> None:
    frames = randn(2, 2, 2, 1).requires_grad_()
    (prediction,) = PRIOR.predict(frames, torch.tensor([5, 5]), [crowd()])
    assert not prediction.eps.requires_grad and not prediction.x0.requires_grad
    assert torch.equal(PRIOR.encode(frames), frames)
    images = AnalyticPrior({"": crowd()}, (2, 2, 1), images=True)
    torch.testing.assert_close(images.encode(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))
    images.encode(frames).sum().backward()
    assert torch.equal(frames.grad, torch.full_like(frames, 2.0))


def ring(views: Views) -> Mixture:
    """One Gaussian a frame, at the frame's own azimuth on the unit circle."""
    means = torch.stack([views.azimuth.cos(), views.azimuth.sin()], -1)[:, None, :, None, None]
    return Mixture(torch.ones(len(means), 1), means, torch.full((len(means), 1), 0.1))


def test_a_mixture_may_depend_on_the_view() -> None:
    prior = AnalyticPrior({"ring": ring}, (2, 1, 1))
    azimuth = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)
    views, z, t = Views(azimuth, torch.zeros(3)), randn(3, 2, 1, 1), torch.tensor([100, 500, 900])
    (prediction,) = prior.predict(z, t, [prior.condition("ring", views)])
    a, s = SD.a(t).double(), SD.s(t).double()
    means = torch.stack([azimuth.cos(), azimuth.sin()], -1)[:, :, None, None]
    torch.testing.assert_close(prediction.eps, s * (z - a * means) / (a**2 * 0.01 + s**2), rtol=1e-6, atol=1e-6)


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"no mixture for 'a dog'; it knows 'crowd', ''"):
        PRIOR.condition("a dog", None)
    with pytest.raises(ValueError, match="depends on the view"):
        AnalyticPrior({"ring": ring}, (2, 1, 1)).condition("ring", None)
    with pytest.raises(ValueError, match="frame_shape is"):
        AnalyticPrior(PRIOR.mixtures, (4, 1, 1)).condition("crowd", None)
    with pytest.raises(ValueError, match="frame_shape is"):
        PRIOR.predict(randn(1, 2, 2, 2), torch.tensor([0]), [crowd()])
    with pytest.raises(ValueError, match="needs weights"):
        Mixture(torch.ones(2), torch.zeros(3, 2, 1, 1), torch.ones(2))
    with pytest.raises(ValueError, match="above 0"):
        Mixture(torch.zeros(1), torch.zeros(1, 2, 1, 1), torch.ones(1))
    with pytest.raises(ValueError, match="at least 0"):
        Mixture(torch.ones(1), torch.zeros(1, 2, 1, 1), -torch.ones(1))
