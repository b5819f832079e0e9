"""VSD, ESD, f-distill, the online LoRA score and the discriminator (guidance sheet U3.1 to U3.5, U5.1, U5.2, 6.1)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from guidance.discriminator import Discriminator, discriminator_loss, r1
from guidance.esd import ESD, esd
from guidance.fdistill import FDistill, H, h_of
from guidance.method import Asked, Setup, Shown, UnfitMethod
from guidance.prior import Views, scaled_linear_schedule
from guidance.priors.analytic import AnalyticPrior, Mixture, denoise
from guidance.schedule import LinearAnneal
from guidance.score_model import LoRA, OnlineScore
from guidance.start import start
from guidance.vsd import VSD, vsd
from tests.tiny import tiny_prior

SD = scaled_linear_schedule()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


# --- the estimators ---


def test_lambda_zero_is_vsd_bitwise_and_lambda_one_ignores_the_camera() -> None:
    pre, camera, blind, other = (randn(2, 3, 4, 4, seed=k) for k in range(4))
    assert torch.equal(esd(pre, camera, blind, 0.0), vsd(pre, camera))
    assert torch.equal(esd(pre, camera, blind, 1.0), esd(pre, other, blind, 1.0))


def test_a_point_mass_score_makes_vsd_sds() -> None:
    """q = a point at x: e_q = eps."""
    t, x, noise = torch.tensor([300]), randn(1, 2, 3, 3), randn(1, 2, 3, 3, seed=1)
    a, s = SD.a(t).double(), SD.s(t).double()
    q = denoise(Mixture(torch.ones(1), x, torch.zeros(1)), a * x + s * noise, a, s).eps
    torch.testing.assert_close(q, noise)


def drift(x: Tensor, t: int, mu: float, c: float, m: Tensor, tau2: Tensor, entropy: float) -> Tensor:
    """E_eps[g] of ESD between Gaussians, from the estimator at an antithetic pair of noises."""
    step = torch.tensor([t])
    a, s = SD.a(step).double().item(), SD.s(step).double().item()
    total = torch.zeros_like(x)
    for eps in (0.8, -0.8):
        z = a * x + s * eps
        pre = s * (z - a * mu) / (a**2 * c**2 + s**2)
        blind = s * (z - a * m) / (a**2 * tau2 + s**2)
        total += esd(pre, torch.full_like(z, eps), blind, entropy) / 2
    return total


@pytest.mark.parametrize(("entropy", "expected"), [(0.75, 0.106), (0.9, 0.192), (1.0, 0.250), (0.5, 0.0)])
def test_stationary_spread_of_the_particles(entropy: float, expected: float) -> None:
    """tau^2 = lambda c^2 - (1 - lambda) s^2 / a^2 (0 if negative), c = .5, t = 200: collapse below lambda .567."""
    x = 0.5 * randn(400)
    for _ in range(3000):
        x = x - 0.5 * drift(x, 200, 0.0, 0.5, x.mean(), x.var(correction=0), entropy)
    assert x.var(correction=0).item() == pytest.approx(expected, abs=2e-3)


def janus(entropy: float) -> tuple[float, float]:
    """Toy B: 128 views, four modes, (entropy of the modes' histogram, the largest share)."""
    angle = torch.arange(4) * math.pi / 2
    means = torch.stack([angle.cos(), angle.sin()], 1)[:, :, None, None].double()
    p = Mixture(torch.tensor([0.4, 0.3, 0.2, 0.1]).double(), means, torch.full((4,), 0.1).double())
    x, g, steps = 0.01 * randn(128, 2, 1, 1), generator(1), 600
    adam = torch.optim.Adam([x], lr=0.02, betas=(0.9, 0.99), eps=1e-15)
    policy = LinearAnneal(0.138, 13.04)
    for i in range(steps):
        t = policy.draw(i, steps, 1, SD, g).expand(128)
        a, s = SD.a(t).double(), SD.s(t).double()
        noise = torch.randn(x.shape, generator=g, dtype=x.dtype)
        z = a * x + s * noise
        q = denoise(Mixture(torch.ones(128), x.clone(), torch.zeros(128)), z, a, s).eps
        x.grad = s**2 * esd(denoise(p, z, a, s).eps, noise, q, entropy)
        adam.step()
    share = (torch.cdist(x.flatten(1), means.flatten(1)) < 0.35).double().mean(0)
    share = share / share.sum()
    return float(-(share * share.clamp(min=1e-12).log()).sum()), float(share.max())


def test_entropy_spreads_the_views() -> None:
    results = [janus(entropy) for entropy in (0.0, 0.5, 1.0)]
    entropies, largest = zip(*results, strict=True)
    assert entropies[0] < entropies[1] < entropies[2]
    assert largest[0] > 0.7 and largest[2] < 0.45


# --- h(r) and divergences ---

F_OF = {
    "reverse-kl": lambda r: -r.log(),
    "soft-reverse-kl": lambda r: (r + 1) * (0.5 + 0.5 / r).log(),
    "js": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "hellinger": lambda r: 1 - r.sqrt(),
    "forward-kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
}


@pytest.mark.parametrize("name", list(H))
def test_h_is_the_second_derivative_times_r_squared(name: str) -> None:
    r = torch.linspace(0.2, 5, 30, dtype=torch.float64).requires_grad_()
    (first,) = torch.autograd.grad(F_OF[name](r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(h_of(name, 0.5)(r.detach()), (second * r**2).detach())


def test_adaptive_mixes_forward_and_reverse_kl() -> None:
    r = torch.tensor([0.5, 2.0])
    assert torch.equal(h_of("adaptive", 1.0)(r), r) and torch.equal(h_of("adaptive", 0.0)(r), torch.ones(2))
    with pytest.raises(ValueError, match="Unknown divergence"):
        h_of("kl", 0.5)


@pytest.mark.parametrize(
    ("name", "start", "expected"),
    [("forward-kl", 1.0, (0.8, 1.9)), ("reverse-kl", 1.0, (2.0, 0.5)), ("reverse-kl", -1.0, (-2.0, 0.5))],
)
def test_a_gaussian_student_covers_or_seeks(name: str, start: float, expected: tuple[float, float]) -> None:
    """p = .7 N(2, .25) + .3 N(-2, .25); the student N(m, tau^2) follows -E_q[h(r) (s_p - s_q) dx/dtheta]."""
    h, u = h_of(name, 0.5), torch.linspace(-5, 5, 2001, dtype=torch.float64)
    weight = torch.exp(-(u**2) / 2)
    weight = weight / weight.sum()
    m, log_tau = torch.tensor(start).double(), torch.tensor(0.0).double()
    for _ in range(6000):
        tau = log_tau.exp()
        x = m + tau * u
        parts = torch.stack([math.log(0.7) - (x - 2) ** 2 / 0.5, math.log(0.3) - (x + 2) ** 2 / 0.5])
        log_p = torch.logsumexp(parts, 0) - math.log(0.5 * math.sqrt(2 * math.pi))
        rho = parts.softmax(0)
        s_p = -(rho[0] * (x - 2) + rho[1] * (x + 2)) / 0.25
        log_q = -(u**2) / 2 - log_tau - 0.5 * math.log(2 * math.pi)
        g = -weight * h((log_p - log_q).exp()) * (s_p + u / tau)
        m = m - 0.01 * (g.sum() / 1).clamp(-3, 3)
        log_tau = log_tau - 0.01 * ((g * u * tau).sum() / 1).clamp(-3, 3)
    assert float(m) == pytest.approx(expected[0], abs=0.03)
    assert float(log_tau.exp()) == pytest.approx(expected[1], abs=0.03)


# --- the discriminator ---


def test_the_optimal_logit_is_the_log_ratio() -> None:
    """Two 1-D Gaussians: log p/q = 2 x for N(1, 1) against N(-1, 1)."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            return self.net(z.flatten(1))[:, 0]

    net, g = Line(), generator()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=g))
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    t = torch.zeros(2000, dtype=torch.long)
    for _ in range(400):
        real, fake = (torch.randn(2000, 1, 1, 1, generator=g) + m for m in (1.0, -1.0))
        adam.zero_grad()
        discriminator_loss(net, real, fake, t, t).backward()
        adam.step()
    x = torch.linspace(-1.5, 1.5, 13)
    assert (net(x[:, None, None, None], t[:13]) - 2 * x).abs().max() < 0.4


def test_r1_of_a_constant_and_of_a_plane() -> None:
    class Plane(nn.Module):
        def __init__(self, k: Tensor) -> None:
            super().__init__()
            self.k = k

        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            return (self.k * z).sum((1, 2, 3))

    z, t, k = randn(5, 2, 3, 3), torch.zeros(5, dtype=torch.long), randn(2, 3, 3, seed=1)
    torch.testing.assert_close(r1(Plane(k), z, t), k.square().sum())
    assert r1(Plane(0 * k), z, t) == 0


def test_the_discriminator_knows_the_time_and_repeats() -> None:
    z = randn(2, 7, 32, 32).float()
    one, two = Discriminator(7, generator()), Discriminator(7, generator())
    early, late = (one(z, torch.full((2,), t)) for t in (100, 900))
    assert torch.equal(early, two(z, torch.full((2,), 100))) and not torch.allclose(early, late)


# --- the online score on a tiny network ---

QUICK = LoRA(updates=2, warm=2)


def views(n: int = 4) -> Views:
    return Views(torch.arange(n) * (2 * math.pi / n), torch.full((n,), 0.2), n)


def test_the_lora_starts_as_the_prior_learns_and_leaves_the_prior_alone() -> None:
    prior = tiny_prior()
    before = {k: v.clone() for k, v in prior.net.state_dict().items()}
    score = OnlineScore(Setup(prior, Asked("a cube"), 3.0), LoRA(updates=30, warm=0, drop=0.0, rate=3e-3))
    z, t = torch.randn(4, *prior.frame_shape, generator=generator()), torch.full((4,), 500)
    (own,) = prior.predict(z, t, [prior.condition("a cube", views())])
    torch.testing.assert_close(score.predict(z, t, views()).x0, own.x0)
    x = 0.5 * torch.ones(4, *prior.frame_shape)
    first, last = score.learn(x, views()), [score.learn(x, views()) for _ in range(3)][-1]
    assert last < 0.9 * first
    assert not torch.allclose(score.predict(z, t, views()).x0, own.x0, atol=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in prior.net.state_dict().items())


@pytest.mark.parametrize(
    "method", [VSD(QUICK), ESD(lora=QUICK), FDistill(lora=QUICK, bank=2)], ids=["vsd", "esd", "f"]
)
@pytest.mark.parametrize("blind", [False, True])
def test_steps_repeat_and_resume(method, blind: bool) -> None:
    prior = tiny_prior()
    setup = Setup(prior, Asked("a cube", blind=blind), 3.0)
    seen = Views(views().azimuth, views().elevation, 1 if blind else 4)

    def gradient(guidance, seed: int) -> Tensor:
        x = torch.rand(4, *prior.frame_shape, generator=generator(seed)).requires_grad_()
        guidance.step(Shown(x, seen, torch.full((4,), 500)), generator(seed)).loss.backward()
        assert x.grad is not None
        return x.grad

    one, two, later = start(method, setup), start(method, setup), start(method, setup)
    assert torch.equal(gradient(one, 0), gradient(two, 0))
    later.restore({k: v.clone() for k, v in one.tensors().items()})
    expected = gradient(one, 1)
    assert torch.equal(gradient(later, 1), expected) and bool(expected.isfinite().all())


def test_lambda_changes_the_gradient_and_zero_is_vsd() -> None:
    prior = tiny_prior()

    def gradient(method) -> Tensor:
        x = torch.rand(4, *prior.frame_shape, generator=generator()).requires_grad_()
        shown = Shown(x, views(), torch.full((4,), 500))
        start(method, Setup(prior, Asked("a cube"), 3.0)).step(shown, generator()).loss.backward()
        assert x.grad is not None
        return x.grad

    plain = gradient(VSD(QUICK))
    assert torch.equal(gradient(ESD(0.0, QUICK)), plain) and not torch.allclose(gradient(ESD(0.5, QUICK)), plain)


@pytest.mark.parametrize("method", [VSD(), ESD(), FDistill()], ids=["vsd", "esd", "f"])
def test_a_prior_without_a_network_is_refused_in_a_sentence(method) -> None:
    mixture = Mixture(torch.ones(1), torch.zeros(1, 2, 1, 1), torch.ones(1))
    with pytest.raises(UnfitMethod, match="choose sds"):
        start(method, Setup(AnalyticPrior({"y": mixture, "": mixture}, (2, 1, 1)), Asked("y"), 3.0))
