"""Toys A, B and C: the methods on mixtures whose scores are known exactly. No network; a few minutes in all.

    python -m benchmarks.toys [a] [b] [c]

A, seeds in the plane: four conditional modes, a broad unconditional. B, views: 128 "views" of a plane, each its own
picture, with the exact score of what all views show together. C, small colour pictures: saturation. Each prints its
table, then asserts the orders that tell the methods apart. Sizes belong to the mixtures; only the signs carry over to
real priors.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from guidance.cfg import Cfg
from guidance.csd import CSD
from guidance.dsd import dsd, simulate, time_ahead
from guidance.esd import esd
from guidance.method import Asked, Setup, Shown
from guidance.nfsd import NFSD
from guidance.prior import Prediction, Views
from guidance.priors.analytic import AnalyticPrior, Mixture, denoise, empirical
from guidance.sample import ddim_sample
from guidance.schedule import LinearAnneal, SqrtAnneal, TimePolicy, Uniform
from guidance.sdi import SDI
from guidance.sds import SDS
from guidance.settings import Method
from guidance.ssd import SSD
from guidance.start import start

LOW, HIGH = 0.138, 13.04  # Stable Diffusion's t = 20 and 980
UNIFORM, LINEAR, SQRT = Uniform(LOW, HIGH), LinearAnneal(LOW, HIGH), SqrtAnneal(LOW, HIGH)
KNOTS = [999, *range(899, 0, -100)]
M_T200 = 0.572

Gradient = Callable[[int, Tensor, Tensor, torch.Generator], Tensor]  # step, x, t (N,), generator -> g


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def descend(gradient: Gradient, shape: Sequence[int], policy: TimePolicy, steps: int) -> Tensor:
    """Adam (0.9, 0.99) at 0.01 on N independent particles (N, C, H, W), all from nearly the same point."""
    g, n = generator(1), shape[0]
    x = (0.01 * torch.randn(*shape, generator=generator(0))).requires_grad_(True)
    adam = torch.optim.Adam([x], lr=0.01, betas=(0.9, 0.99), eps=1e-15)
    for i in range(steps):
        t = policy.draw(i, steps, n, prior_schedule, g)
        x.grad = gradient(i, x.detach(), t, g)
        adam.step()
    return x.detach()


prior_schedule = AnalyticPrior({}, (1, 1, 1)).schedule


def of_method(method: Method, prior: AnalyticPrior, scale: float, n: int, cfg: Cfg, negative: str = "") -> Gradient:
    """The gradient of a started method."""
    started = start(method, Setup(prior, Asked("y", negative), scale, cfg))
    views = Views(torch.zeros(n), torch.zeros(n), 1)

    def gradient(i: int, x: Tensor, t: Tensor, g: torch.Generator) -> Tensor:
        x = x.clone().requires_grad_(True)
        started.step(Shown(x, views, t), g).loss.backward()
        assert x.grad is not None
        return x.grad

    return gradient


def of_path(prior: AnalyticPrior, scale: float, w2: float, n: int, hold: float = 0.0, lowest: int = 20) -> Gradient:
    """DSD with a seed for each of N particles; t stops at `lowest`."""
    schedule = prior.schedule
    pair = [prior.condition("y", None), prior.condition("", None)]

    def predict(z: Tensor, t: Tensor, w: float = scale) -> Prediction:
        c, u = prior.predict(z, t, pair)
        return Prediction(u.x0 + w * (c.x0 - u.x0), u.eps + w * (c.eps - u.eps))

    path = simulate(predict, torch.randn(n, *prior.frame_shape, generator=generator(2)), KNOTS, schedule)

    def gradient(i: int, x: Tensor, t: Tensor, g: torch.Generator) -> Tensor:
        t = t.clamp(min=lowest)
        t_d = torch.full_like(t, time_ahead(int(t[0]), 20, 999, g))
        on_path, noise = path.at(int(t_d[0]))
        now = predict(schedule.add_noise(x, noise, t), t)
        ahead = predict(schedule.add_noise(x, noise, t_d), t_d, w2)
        return schedule.s(t) ** 2 * dsd(now, ahead, x, t, t_d, schedule, on_path, hold)

    return gradient


def spread(owner: Tensor, inside: Tensor, modes: int) -> dict[str, float]:
    """in-mode share, modes with over 1 %, entropy and largest share of the in-mode histogram."""
    counts = torch.bincount(owner[inside], minlength=modes).double()
    share = counts / max(1.0, float(counts.sum()))
    kept = share[share > 0]
    return {
        "in-mode": float(inside.double().mean()),
        "modes": int((counts > 0.01 * len(owner)).sum()),
        "H": float(-(kept * kept.log()).sum()),
        "maxp": float(share.max()),
    }


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(rows.values())))
    print(f"\n{title}\n| | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[k]:.3g}" for k in names) + " |")


def four() -> tuple[Tensor, Tensor]:
    """Means (4, 2, 1, 1) at radius 1, weights."""
    means = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])[:, :, None, None]
    return means, torch.tensor([0.4, 0.3, 0.2, 0.1])


def toy_a(n: int = 512, steps: int = 2000) -> None:
    means, weights = four()
    wide = Mixture(
        torch.tensor([0.1] * 4 + [0.6]), torch.cat([means, torch.zeros(1, 2, 1, 1)]), torch.tensor([0.1] * 4 + [1.0])
    )
    prior = AnalyticPrior({"y": Mixture(weights, means, torch.full((4,), 0.1)), "": wide}, (2, 1, 1))
    shape = (n, 2, 1, 1)

    def judge(x: Tensor) -> dict[str, float]:
        near, owner = torch.cdist(x.flatten(1), means.flatten(1)).min(1)
        return spread(owner, near < 0.35, 4)

    def run(gradient: Gradient, policy: TimePolicy) -> dict[str, float]:
        return judge(descend(gradient, shape, policy, steps))

    def method(m: Method, w: float, policy: TimePolicy) -> dict[str, float]:
        return run(of_method(m, prior, w, n, Cfg()), policy)

    rows = {}
    for w in (1.0, 3.0, 7.5):
        pair = prior.condition("y", None), prior.condition("", None)
        noise = torch.randn(shape, generator=generator(3))
        rows[f"DDIM-50, w {w:g}"] = judge(ddim_sample(prior, pair, noise, 50, w))
    rows["SDS, w 7.5, uniform"] = method(SDS(), 7.5, UNIFORM)
    rows["SDS, w 1, linear"] = method(SDS(), 1.0, LINEAR)
    rows["SDS, w 7.5, linear"] = method(SDS(), 7.5, LINEAR)
    rows["SDS, w 7.5, sqrt"] = method(SDS(), 7.5, SQRT)
    rows["CSD, linear"] = method(CSD(), 7.5, LINEAR)
    rows["SDI, w 7.5, linear"] = method(SDI(inversion_scale=0, sigma_first=0.05), 7.5, LINEAR)
    rows["DSD, w 1, sqrt"] = run(of_path(prior, 1.0, 1.0, n), SQRT)
    rows["DSD, w 7.5, w2 7.5, sqrt"] = run(of_path(prior, 7.5, 7.5, n), SQRT)
    rows["DSD, w 7.5, w2 7.5, hold 1, sqrt"] = run(of_path(prior, 7.5, 7.5, n, 1.0), SQRT)
    rows["DSD, w 7.5, w2 1, sqrt"] = run(of_path(prior, 7.5, 1.0, n), SQRT)
    rows["DSD, w 7.5, w2 1, t from 320"] = run(of_path(prior, 7.5, 1.0, n, lowest=320), SQRT)
    show("A: seeds (true H 1.28)", rows)
    assert rows["SDS, w 7.5, uniform"]["in-mode"] < 0.05
    for name in ("SDS, w 7.5, linear", "SDS, w 7.5, sqrt", "CSD, linear"):
        assert rows[name]["modes"] == 1 and rows[name]["in-mode"] > 0.9, name
    assert rows["DSD, w 1, sqrt"]["modes"] == 4 and rows["DSD, w 1, sqrt"]["H"] > 1.1
    assert rows["SDI, w 7.5, linear"]["in-mode"] > 0.9
    own = rows["DSD, w 7.5, w2 7.5, sqrt"]
    assert own["modes"] >= 3 and own["H"] > rows["DSD, w 7.5, w2 1, sqrt"]["H"] + 0.3
    assert rows["DDIM-50, w 1"]["H"] > rows["DDIM-50, w 3"]["H"] > rows["DDIM-50, w 7.5"]["H"]
    assert rows["DSD, w 7.5, w2 1, t from 320"]["in-mode"] < 0.3


def toy_b(n: int = 128, steps: int = 2000) -> None:
    means, weights = four()
    target, schedule = Mixture(weights, means, torch.full((4,), 0.1)), prior_schedule

    def gradient_of(entropy: float) -> Gradient:
        def gradient(i: int, x: Tensor, t: Tensor, g: torch.Generator) -> Tensor:
            noise = torch.randn(x.shape, generator=g)
            z, a, s = schedule.add_noise(x, noise, t), schedule.a(t), schedule.s(t)
            e_q = denoise(empirical(x), z, a, s).eps  # of all particles together
            return s**2 * esd(denoise(target, z, a, s).eps, noise, e_q, entropy)

        return gradient

    def judge(x: Tensor) -> dict[str, float]:
        near, owner = torch.cdist(x.flatten(1), means.flatten(1)).min(1)
        return spread(owner, near < 0.35, 4)

    lambdas = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    linear = {f"lambda {v:g}, linear": judge(descend(gradient_of(v), (n, 2, 1, 1), LINEAR, steps)) for v in lambdas}
    uniform = {f"lambda {v:g}, uniform": judge(descend(gradient_of(v), (n, 2, 1, 1), UNIFORM, steps)) for v in (0, 1)}
    show("B: views (target H 1.28, maxp 0.40)", linear | uniform)
    entropy = [row["H"] for row in linear.values()]
    assert all(b > a - 0.02 for a, b in pairwise(entropy)), entropy
    assert linear["lambda 0, linear"]["maxp"] > 0.7 and linear["lambda 1, linear"]["maxp"] < 0.45
    assert uniform["lambda 0, uniform"]["in-mode"] < 0.1 < uniform["lambda 1, uniform"]["in-mode"]


def toy_c(n: int = 64, steps: int = 1500) -> None:
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    disc = ((y - 3.5) ** 2 + (x - 3.5) ** 2) <= 3.2**2
    grey = torch.full((3, 8, 8), 0.5)

    def picture(*rgb: float) -> Tensor:
        return torch.where(disc, torch.tensor(rgb)[:, None, None], grey) * 2 - 1

    three = torch.stack([picture(0.7, 0.3, 0.3), picture(0.7, 0.5, 0.3), picture(0.7, 0.4, 0.55)])
    more = torch.stack([picture(0.3, 0.3, 0.7), picture(0.3, 0.7, 0.3), grey * 2 - 1])
    prior = AnalyticPrior(
        {
            "y": Mixture(torch.tensor([0.5, 0.3, 0.2]), three, torch.full((3,), 0.08)),
            "": Mixture(torch.ones(6), torch.cat([three, more]), torch.full((6,), 0.12)),
            "bad": Mixture(torch.ones(1), grey[None] * 2 - 1, torch.tensor([0.5])),
        },
        (3, 8, 8),
    )

    def judge(x: Tensor) -> dict[str, float]:
        off, owner = (x[:, None] - three).square().mean((2, 3, 4)).sqrt().min(1)
        color = (x.clamp(-1, 1) * 0.5 + 0.5)[:, :, disc].mean(2)
        saturation = (color.amax(1) - color.amin(1)) / color.amax(1)
        found = spread(owner, off < 0.2, 3)
        clip = float((x.abs() > 1).float().mean())
        return {"S": float(saturation.mean()), "rmse": float(off.mean()), **found, "clip": clip}

    def method(m: Method, w: float, policy: TimePolicy, cfg: Cfg = Cfg(), negative: str = "") -> dict[str, float]:  # noqa: B008
        return judge(descend(of_method(m, prior, w, n, cfg, negative), (n, 3, 8, 8), policy, steps))

    rows = {f"SDS, w {w:g}, uniform": method(SDS(), w, UNIFORM) for w in (1.0, 7.5, 30.0, 100.0)}
    rows |= {f"SDS, w {w:g}, linear": method(SDS(), w, LINEAR) for w in (1.0, 7.5, 100.0)}
    rows["rescale 0.7, w 7.5, linear"] = method(SDS(), 7.5, LINEAR, Cfg("rescale"))
    rows["ZeResFDG, w 7.5, uniform"] = method(SDS(), 7.5, UNIFORM, Cfg("zeresfdg"))
    rows["ZeResFDG, w 7.5, linear"] = method(SDS(), 7.5, LINEAR, Cfg("zeresfdg"))
    for name, policy in (("uniform", UNIFORM), ("linear", LINEAR)):
        rows[f"CSD, {name}"] = method(CSD(), 1.0, policy)
        rows[f"SSD, {name}"] = method(SSD(M_T200), 1.0, policy)
        rows[f"NFSD, w 7.5, {name}"] = method(NFSD(M_T200), 7.5, policy, negative="bad")
    for w, w2 in ((1.0, 1.0), (3.0, 3.0), (7.5, 7.5), (7.5, 1.0)):
        x = descend(of_path(prior, w, w2, n), (n, 3, 8, 8), LINEAR, steps)
        rows[f"DSD, w {w:g}, w2 {w2:g}, linear"] = judge(x)
    show("C: colour (prototypes S .571/.571/.429, true H 1.03)", rows)
    s = [rows[f"SDS, w {w}, uniform"]["S"] for w in ("1", "7.5", "30", "100")]
    assert s[0] < s[1] < s[2] <= s[3], s
    assert rows["SSD, linear"]["rmse"] < rows["SDS, w 7.5, linear"]["rmse"] < rows["CSD, linear"]["rmse"]
    assert rows["DSD, w 3, w2 3, linear"]["modes"] == 3
    for name, row in rows.items():
        assert name.startswith("DSD") or row["modes"] == 0 or row["maxp"] > 0.95, name


def main() -> None:
    asked = [a.lower() for a in sys.argv[1:]] or ["a", "b", "c"]
    for name, toy in (("a", toy_a), ("b", toy_b), ("c", toy_c)):
        if name in asked:
            begin = time.perf_counter()
            toy()
            print(f"\ntoy {name.upper()}: all orders hold, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
