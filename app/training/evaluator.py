"""Train the evaluator: `python -m app.training.evaluator --data ../shared/data --out .cache/evaluator`.

A bank of views of every object (the evaluator's own cameras and families) is rendered once; batches are drawn from
it by class (weight families^1/2, the fixed prompts' threefold). Colours, shape of the picture and sharpness are
disturbed, so that a noun hangs neither on a colour nor on a clean render:
    noun loss = -log sum_{names of the class} exp(s cos) / sum_{all names} exp(s cos)
              + the same among the fixed prompts' classes that have objects.
Then the view network starts from the noun network's trunk and learns the azimuth of the objects that have a front, by
cross entropy with each azimuth shared between its two nearest bins.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from app.evaluate.network import (
    AZIMUTH_BINS,
    SIZE,
    Network,
    NounNetwork,
    ViewNetwork,
    embed_nouns,
    front_score,
    light_frames,
    load_evaluator,
    save_evaluator,
)
from app.evaluate.nouns import class_of, classes, eval100, names_of
from app.training.ceiling import measure_ceiling
from app.training.data import Pack, family_weights, load_pack
from app.training.labels import has_front, label, split
from app.training.recolor import random_color_maps
from guidance.priors.text import TextEncoder
from renderers.cameras import Cameras
from renderers.frames import normals, stored
from renderers.snapshot import compile_kernels, snapshots


@dataclass(frozen=True)
class Arguments:
    """Train the evaluator on the low-poly pack and write weights and held-out accuracies into `out`."""

    data: Path = Path("../shared/data")
    out: Path = Path(".cache/evaluator")
    nouns_from: Path | None = None
    """Take the noun network from an earlier `out` and train only the view network."""
    noun_steps: int = 3000
    view_steps: int = 3000
    batch: int = 96
    views: int = 20
    """Views of each object in the bank, from random cameras."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    prompt_weight: float = 0.5
    seed: int = 0
    say_every: int = 100


@dataclass(frozen=True)
class Labels:
    """Classes and names of the objects. `names` (N) all names that are scored; `owner` (N,) the class of each;
    `kind` (objects,) the class of each object; `prompt` (K,) bool: the fixed prompts' classes that have objects."""

    classes: list[str]
    names: list[str]
    owner: Tensor
    kind: Tensor
    prompt: Tensor


def make_labels(pack: Pack, indices: list[int]) -> Labels:
    """Names of the classes that the objects `indices` have; -1 for objects of other classes."""
    of = [label(r["name"]) for r in pack.rows]
    kinds = sorted({of[i] for i in indices})
    number = {k: i for i, k in enumerate(kinds)}
    names = [n for k in kinds for n in names_of(k)]
    owner = torch.tensor([number[class_of(n)] for n in names])
    wanted = set(classes(eval100()))
    return Labels(
        kinds,
        names,
        owner,
        torch.tensor([number.get(k, -1) for k in of]),
        torch.tensor([k in wanted for k in kinds]),
    )


def random_cameras(count: int, generator: torch.Generator) -> Cameras:
    """Any azimuth, elevation -5 to 40 degrees, field of view 22 to 45, so far away that the unit sphere spans 85
    to 100 % of the picture."""
    u = torch.rand(4, count, generator=generator)
    fov = torch.deg2rad(22 + 23 * u[2])
    span = 0.85 + 0.15 * u[3]
    distance = 1 / torch.sin(torch.atan(span * torch.tan(fov / 2)))
    return Cameras(u[0] * 2 * math.pi, torch.deg2rad(-5 + 45 * u[1]), distance, fov)


def render_bank(pack: Pack, indices: list[int], views: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(len(indices) * views, 7, 64, 64) uint8 frames and their azimuths."""
    cameras = random_cameras(len(indices) * views, generator)
    bank = torch.empty(len(cameras), 7, SIZE, SIZE, dtype=torch.uint8)
    for k in range(0, len(indices), 32):
        meshes = [pack.mesh(i) for i in indices[k : k + 32] for _ in range(views)]
        part = slice(k * views, k * views + len(meshes))
        frames = snapshots(meshes, cameras[part], SIZE)
        bank[part] = torch.from_numpy((frames * 255 + 0.5).astype(np.uint8))
    return bank, cameras.azimuth


def augment(frames: Tensor, azimuth: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Disturb frames (B, 7, S, S): other colours, mirrored, moved, scaled, blurred, blotched, noisy, flatter. Azimuths
    of mirrored frames change sign."""
    b = len(frames)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, 1, 1, 1, generator=generator)

    def some(share: float) -> Tensor:
        return torch.rand(b, 1, 1, 1, generator=generator) < share

    alpha = frames[:, 3:4]
    base = ((frames[:, :3] - 0.5 * (1 - alpha)) / alpha.clamp(min=0.05)).clamp(0, 1)
    matrix, offset = random_color_maps(b, generator)
    base = (torch.einsum("bij,bjhw->bihw", matrix, base) + offset[:, :, None, None]).clamp(0, 1)
    blotch = F.interpolate(torch.randn(b, 3, 6, 6, generator=generator), SIZE, mode="bilinear", align_corners=False)
    base = (base + blotch * uniform(0, 0.22) * some(0.5)).clamp(0, 1)
    normal = normals(frames)
    x = torch.cat([base * alpha, alpha, normal], 1)

    mirror = some(0.5)
    x = torch.where(mirror, x.flip(3) * x.new_tensor([1, 1, 1, 1, -1, 1, 1])[:, None, None], x)
    azimuth = torch.where(mirror.flatten(), -azimuth, azimuth)

    angle, scale = uniform(-0.12, 0.12).flatten(), uniform(0.85, 1.2)[:, 0, 0]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(b, 2, 2) * scale[:, None]
    shift = (torch.rand(b, 2, 1, generator=generator) * 2 - 1) * 0.12
    grid = F.affine_grid(torch.cat([turn, shift], 2), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)

    pick = torch.rand(b, generator=generator)
    for low, high, size, most in ((0.0, 0.35, SIZE // 2, 1.0), (0.35, 0.5, SIZE // 4, 0.8)):
        blurred = ((pick >= low) & (pick < high)).nonzero()[:, 0]
        soft = F.interpolate(x[blurred], size, mode="area")
        soft = F.interpolate(soft, SIZE, mode="bilinear", align_corners=False)
        x[blurred] = x[blurred].lerp(soft, most * uniform(0, 1)[blurred])
    color, alpha, normal = x.split([3, 1, 3], 1)
    normal = normal * torch.cat([uniform(0.6, 1.0).expand(-1, 2, SIZE, SIZE), torch.ones_like(alpha)], 1)
    frames = torch.cat([color + 0.5 * (1 - alpha), alpha, stored(normal)], 1)
    noisy = (torch.rand(b, generator=generator) < 0.4).nonzero()[:, 0]
    noise = torch.randn(len(noisy), *frames.shape[1:], generator=generator) * uniform(0, 0.06)[noisy]
    frames[noisy] = frames[noisy] + noise
    return frames.clamp(0, 1), azimuth


def azimuth_target(azimuth: Tensor) -> Tensor:
    """(B, 8): each azimuth shared linearly between its two nearest bins."""
    u = (azimuth / (2 * math.pi) * AZIMUTH_BINS) % AZIMUTH_BINS
    low = u.floor().long() % AZIMUTH_BINS
    share = (u - u.floor())[:, None]
    one = F.one_hot(low, AZIMUTH_BINS).float()
    return one * (1 - share) + one.roll(1, 1) * share


def class_loss(scores: Tensor, labels: Labels, kind: Tensor, only: Tensor | None = None) -> Tensor:
    """-log of the share of the right class's names (B,) in softmax(scores (B, N)); `only` (K,) bool keeps classes."""
    right = labels.owner[None] == kind[:, None]
    if only is not None:
        scores = scores.masked_fill(~only[labels.owner][None], -torch.inf)
    return scores.logsumexp(1) - scores.masked_fill(~right, -torch.inf).logsumexp(1)


class Watch:
    """Accuracies on single views of held-out families, to be looked at during training. Nothing is chosen by them."""

    def __init__(self, pack: Pack, held_out: list[int], labels: Labels, embedded: Tensor):
        self.labels, self.embedded = labels, embedded
        frames, self.azimuth = render_bank(pack, held_out, 4, torch.Generator().manual_seed(1))
        self.pictures = light_frames(frames.float() / 255)
        self.kind = labels.kind[held_out].repeat_interleave(4)
        self.wanted = torch.tensor([bool(k >= 0 and labels.prompt[k]) for k in self.kind])
        fronted = torch.tensor([has_front(pack.rows[i]) for i in held_out]).repeat_interleave(4)
        self.fronted = fronted & (self.azimuth.cos().abs() > 0.7)

    @torch.no_grad()
    def noun(self, net: NounNetwork) -> str:
        points = torch.cat([net.eval()(x)[1] for x in self.pictures[self.wanted].split(256)])
        net.train()
        known = self.labels.prompt[self.labels.owner]
        guess = self.labels.owner[known][(points @ self.embedded[known].T).argmax(1)]
        return f"R@1 {float((guess == self.kind[self.wanted]).float().mean()):.3f}"

    @torch.no_grad()
    def view(self, net: ViewNetwork) -> str:
        front = front_score(torch.cat([net.eval()(x) for x in self.pictures[self.fronted].split(256)])) > 0
        net.train()
        return f"front or back {float((front == (self.azimuth[self.fronted].cos() > 0)).float().mean()):.3f}"


@dataclass(frozen=True)
class Material:
    """What both networks are trained on: the bank, whose view v of training object i is row i * views + v."""

    pack: Pack
    training: list[int]
    labels: Labels
    embedded: Tensor
    bank: Tensor
    azimuth: Tensor
    watch: Watch


def noun_weights(m: Material) -> Tensor:
    """(training objects,) float64: classes by the square root of their families, the fixed prompts' threefold; within
    a class every family alike."""
    kind = m.labels.kind[m.training].tolist()
    family = Counter((k, m.pack.rows[i]["family"]) for k, i in zip(kind, m.training, strict=True))
    families = Counter(k for k, _ in family)
    weights = [
        families[k] ** -0.5 * (3.0 if m.labels.prompt[k] else 1.0) / family[k, m.pack.rows[i]["family"]]
        for k, i in zip(kind, m.training, strict=True)
    ]
    return torch.tensor(weights, dtype=torch.float64)


def front_weights(m: Material) -> Tensor:
    """(training objects,) float64: 1 / sqrt(family size) for objects with a front, 0 for others."""
    fronted = np.array([has_front(m.pack.rows[i]) for i in m.training])
    return torch.from_numpy(family_weights(m.pack.rows, m.training) * fronted)


def fit(
    net: torch.nn.Module,
    weights: Tensor,
    steps: int,
    loss_of: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]],
    watch: Callable[[], str],
    m: Material,
    a: Arguments,
    generator: torch.Generator,
    say: Callable[[str], None],
) -> dict[str, float]:
    """AdamW with one cycle over augmented batches drawn by `weights`; `loss_of(pictures, objects, azimuths)` are the
    parts of the loss, which are summed. Returns their running means."""
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": a.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=a.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, a.learning_rate, total_steps=steps, pct_start=0.1)
    running: dict[str, float] = {}
    began = time.perf_counter()
    net.train()
    for step in range(1, steps + 1):
        picked = torch.multinomial(weights, a.batch, replacement=True, generator=generator)
        index = picked * a.views + torch.randint(0, a.views, (a.batch,), generator=generator)
        frames, azimuth = augment(m.bank[index].float() / 255, m.azimuth[index], generator)
        pictures = light_frames(frames).contiguous(memory_format=torch.channels_last)
        parts = loss_of(pictures, picked, azimuth)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        for name, value in parts.items():
            now = float(value.detach())
            running[name] = 0.98 * running.get(name, now) + 0.02 * now
        if step % a.say_every == 0:
            seen = watch() if step % (5 * a.say_every) == 0 else ""
            words = ", ".join(f"{n} {v:.3f}" for n, v in running.items())
            say(f"step {step}: {words}; {time.perf_counter() - began:.0f} s  {seen}")
    net.eval()
    return {k: round(v, 4) for k, v in running.items()}


def fit_nouns(
    net: NounNetwork, m: Material, a: Arguments, generator: torch.Generator, say: Callable[[str], None]
) -> dict[str, float]:
    """Train the noun network; see the module's docstring."""
    kind = m.labels.kind[m.training]

    def loss_of(pictures: Tensor, picked: Tensor, azimuth: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            _, points = net(pictures)
        scores = points.float() @ m.embedded.T * net.log_scale.exp().clamp(max=60)
        k = kind[picked]
        mine = m.labels.prompt[k]
        narrow = class_loss(scores[mine], m.labels, k[mine], m.labels.prompt).sum() / len(k)
        return {"noun": class_loss(scores, m.labels, k).mean(), "prompt": a.prompt_weight * narrow}

    return fit(net, noun_weights(m), a.noun_steps, loss_of, lambda: m.watch.noun(net), m, a, generator, say)


def fit_views(
    net: ViewNetwork, m: Material, a: Arguments, generator: torch.Generator, say: Callable[[str], None]
) -> dict[str, float]:
    """Train the view network, whose trunk comes from the noun network."""

    def loss_of(pictures: Tensor, picked: Tensor, azimuth: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(pictures)
        return {"azimuth": F.cross_entropy(logits.float(), azimuth_target(azimuth))}

    return fit(net, front_weights(m), a.view_steps, loss_of, lambda: m.watch.view(net), m, a, generator, say)


def main() -> None:
    import sys

    a = tyro.cli(Arguments)

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    compile_kernels()
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(a.seed)
    pack, encoder = load_pack(a.data), TextEncoder()
    training, held_out = split(pack.rows, set(classes(eval100())))
    labels = make_labels(pack, training)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(a.seed)
        net = Network()
    raw = embed_nouns(encoder, labels.names)
    net.noun.text_mean.copy_(raw.mean(0).bfloat16().float())
    embedded = F.normalize(raw - net.noun.text_mean, dim=1)
    bank, azimuth = render_bank(pack, training, a.views, generator)
    m = Material(pack, training, labels, embedded, bank, azimuth, Watch(pack, held_out, labels, embedded))
    say(f"{len(training)} objects, {len(labels.classes)} classes, {len(bank)} views")

    settings = {k: v for k, v in asdict(a).items() if k not in ("data", "out", "nouns_from", "say_every")}
    about: dict[str, Any] = settings | {"objects": len(training), "held_out": len(held_out)}
    if a.nouns_from is None:
        about["losses"] = fit_nouns(net.noun, m, a, generator, say)
    else:
        earlier = load_evaluator(a.nouns_from, encoder)
        net.noun.load_state_dict(earlier.net.noun.state_dict())
        about |= {k: earlier.config["training"][k] for k in ("noun_steps", "losses")}
    save_evaluator(net, a.out, {"training": about, "ceiling": {}})
    net.view.trunk.load_state_dict(net.noun.trunk.state_dict())
    about["losses"] = about["losses"] | fit_views(net.view, m, a, generator, say)
    about["minutes"] = round((time.perf_counter() - began) / 60, 1)
    save_evaluator(net, a.out, {"training": about, "ceiling": {}})
    ceiling = measure_ceiling(load_evaluator(a.out, encoder), pack, training, held_out)
    save_evaluator(net, a.out, {"training": about, "ceiling": ceiling})
    say(json.dumps({k: v for k, v in ceiling.items() if "held_out" in k}, indent=1))


if __name__ == "__main__":
    main()
