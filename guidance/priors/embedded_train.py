"""Training the embedded prior: x0 regression on joint multi-view frames with camera, text and picture conditions.

loss = min(1/s_t^2, max_weight) * mean (x0_net(z_t, t, c) - x)^2, z_t = a_t x + s_t eps, each frame with its own t,
squared cosine schedule. t = 1000 u^skew, u uniform: a skew below 1 spends more on high noise, where what is drawn is
decided.

Every step draws one kind of set (so that a batch is dense): 60 % joint (4 frames of an object 90 degrees apart, with
cameras), 20 % single with camera, 20 % single without. The text is dropped in 10 %. In 35 % of the first two kinds a
picture joins every object as one more frame with t = 0; then half of the azimuths are given relative to it. Elevation
is dropped in 30 % of those. In `separate_times` of the sets alpha and normals carry a time step of their own, half of
those 0: colours for a given shape (the second stage of Direct2.5, 2311.15980).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from guidance.prior import NoiseSchedule, squared_cosine_schedule
from guidance.priors.embedded_network import (
    build_network,
    camera_vector,
    geometry_time,
    predict_x0,
    to,
    widen,
)
from guidance.priors.embedded_weights import load_network
from guidance.priors.muon import Muon
from guidance.priors.text import TextEmbedding


class Source(Protocol):
    """Where training sets come from. The application wires a renderer to the objects; this module never sees a
    mesh."""

    def draw(
        self, objects: int, azimuth: Tensor, elevation: Tensor, size: int, generator: torch.Generator
    ) -> tuple[Tensor, list[str]]:
        """`objects` random objects from views (objects, V): frames (objects * V, 7, size, size) in [0, 1], and a
        caption each."""
        ...

    def validation(
        self, count: int, azimuth: Tensor, elevation: Tensor, size: int, seen: bool = False
    ) -> tuple[Tensor, list[str]]:
        """The same for a fixed set of `count` objects of held-out families, or (`seen`) of training families."""
        ...

    def picture(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Photograph-like versions (RGB lit, alpha kept, normals mid-grey) of frames (B, 7, S, S)."""
        ...

    def text(self, captions: list[str]) -> TextEmbedding:
        """The captions' embeddings; the empty string is the dropped text."""
        ...


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast, in what precision. Sizes are per step at `size` 64; at 32 twice the objects are drawn."""

    steps: int = 20000
    size: int = 64
    objects: int = 4
    learning_rate: float = 8e-4
    final_learning_rate: float = 8e-4  # reached linearly from `decay_from` (a share of the steps)
    decay_from: float = 1.0
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.9995
    seed: int = 0
    bf16: bool = True
    picture: float = 0.2
    separate_times: float = 0.05
    skew: float = 0.7
    max_weight: float = 5.0
    optimizer: str = "adamw"
    """adamw, or muon for the matrices (guidance/priors/muon.py)."""
    validate_every: int = 500
    sample_every: int = 3000
    save_every: int = 500
    channels: tuple[int, ...] = (64, 128, 192)


@dataclass
class TrainState:
    net: UNet2DConditionModel
    ema: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    frames: int = 0
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)


def new_state(config: TrainConfig, device: torch.device | str, weights: Path | None = None) -> TrainState:
    """Fresh, or resumed from a folder of exported weights, whose optimiser state never travels."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(config.seed)  # diffusers initialises from the global generator
        net = build_network(config.channels)
    if weights is not None:
        net.load_state_dict(widen(dict(load_network(weights, "cpu")[0].state_dict()), net))
    net = to(net, device).train()
    return TrainState(net, {k: v.detach().clone() for k, v in net.state_dict().items()}, make_optimizer(net, config))


def make_optimizer(net: UNet2DConditionModel, config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "muon":
        return Muon(net.named_parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)


def rate(config: TrainConfig, step: int, since_start: int) -> float:
    """Warm-up over `warmup` steps since this process began, then constant, then linear to the final rate."""
    warm = min(1.0, (since_start + 1) / config.warmup)
    u = (step / config.steps - config.decay_from) / max(1e-9, 1 - config.decay_from)
    u = min(1.0, max(0.0, u))
    return warm * ((1 - u) * config.learning_rate + u * config.final_learning_rate)


@dataclass(frozen=True)
class Batch:
    x: Tensor  # (B, 7, S, S) in [-1, 1]
    t: Tensor  # (B,), 0 on picture frames
    text: TextEmbedding
    camera: Tensor  # (B, 16)
    frames: int  # per object, the picture included
    target: Tensor  # (B,) bool: false on picture frames
    geometry: Tensor | None = None  # (B,) the time step of alpha and normals, where it is not t


def draw_batch(source: Source, config: TrainConfig, generator: torch.Generator) -> Batch:
    """One dense batch of one kind of set."""
    u = torch.rand(6, generator=generator).tolist()
    joint, with_camera = u[0] < 0.75, u[0] < 0.9
    views = 4 if joint else 1
    objects = config.objects * (1 if config.size >= 64 else 2) * (1 if joint else 3)
    with_picture = with_camera and u[1] < config.picture
    azimuth = torch.rand(objects, 1, generator=generator) * 2 * math.pi + torch.arange(views) * (2 * math.pi / views)
    elevation = math.radians(-10) + torch.rand(objects, 1, generator=generator) * math.radians(55)
    elevation = elevation.expand(objects, views)
    if with_picture:  # seen from anywhere near the horizon
        azimuth = torch.cat([torch.rand(objects, 1, generator=generator) * 2 * math.pi, azimuth], 1)
        own = math.radians(-10) + torch.rand(objects, 1, generator=generator) * math.radians(50)
        elevation = torch.cat([own, elevation], 1)
    frames, captions = source.draw(objects, azimuth, elevation, config.size, generator)
    v = views + with_picture
    is_picture = torch.zeros(objects, v, dtype=torch.bool)
    if with_picture:
        is_picture[:, 0] = True
        frames = frames.clone()
        frames[::v] = source.picture(frames[::v], generator)
        if relative := u[2] < 0.5:
            azimuth = azimuth - azimuth[:, :1]
    else:
        relative = False
    is_picture = is_picture.flatten()
    keep_elevation = u[3] >= 0.3 or not with_picture
    camera = camera_vector(
        azimuth.flatten() if with_camera else None,
        elevation.flatten() if with_camera and keep_elevation else None,
        objects * v,
        picture=is_picture,
        relative=relative,
    )
    drop = (torch.rand(objects, generator=generator) < 0.1).tolist()
    captions = ["" if dropped else c for c, dropped in zip(captions, drop, strict=True)]
    text = source.text([c for c in captions for _ in range(v)])

    def times(*shape: int) -> Tensor:
        return (1000 * torch.rand(shape, generator=generator) ** config.skew).long().clamp(max=999)

    t = times(objects, 1).expand(objects, v)
    # most joint sets share one t (what sampling sees), a fifth draws one a frame (what distillation may need)
    if u[4] < 0.2:
        t = times(objects, v)
    geometry = None
    if u[5] < config.separate_times:
        geometry = times(objects, 1)
        geometry *= torch.rand(objects, 1, generator=generator) < 0.5
        geometry = geometry.expand(objects, v).flatten().masked_fill(is_picture, 0)
    t = t.flatten().masked_fill(is_picture, 0)
    return Batch(frames * 2 - 1, t, text, camera, v, ~is_picture, geometry)


def x0_loss(
    net: UNet2DConditionModel, batch: Batch, noise: Tensor, schedule: NoiseSchedule, config: TrainConfig
) -> Tensor:
    """min(1/s^2, max_weight)-weighted mean squared x0 error over the frames that are targets."""
    target = batch.target[:, None, None, None]
    times = [batch.t] * 3 + [batch.t if batch.geometry is None else batch.geometry] * 4  # of the seven channels
    a = torch.cat([schedule.a(t) for t in times], 1)
    s = torch.cat([schedule.s(t) for t in times], 1)
    z = torch.where(target, a * batch.x + s * noise, batch.x)
    with torch.autocast(z.device.type, torch.bfloat16, enabled=config.bf16):
        geometry = None if batch.geometry is None else geometry_time(batch.geometry)
        x0 = predict_x0(net, z, batch.t, batch.text, batch.camera, batch.frames, geometry)
    weight = (1 / s**2).clamp(max=config.max_weight)
    error = (weight * (x0 - batch.x).square()).mean((1, 2, 3))
    return error[batch.target].mean()


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    text = TextEmbedding(batch.text.tokens.to(device), batch.text.mask.to(device))
    x, t = batch.x.to(device, non_blocking=True), batch.t.to(device, non_blocking=True)
    geometry = None if batch.geometry is None else batch.geometry.to(device)
    return Batch(x, t, text, batch.camera.to(device), batch.frames, batch.target.to(device), geometry)


@torch.no_grad()
def validation_error(
    net: UNet2DConditionModel,
    source: Source,
    size: int,
    schedule: NoiseSchedule,
    device: torch.device | str,
    bf16: bool,
    seen: bool = False,
) -> dict[str, float]:
    """Mean squared x0 error, unweighted, of joint frames of held-out families (or of training families: `seen`) at
    t = 100, 300, 500, 700, 900, with fixed noise."""
    generator = torch.Generator().manual_seed(1234)
    objects, views = 16, 4
    azimuth = torch.rand(objects, 1, generator=generator) * 2 * math.pi + torch.arange(views) * (math.pi / 2)
    elevation = (math.radians(-10) + torch.rand(objects, 1, generator=generator) * math.radians(55)).expand(
        objects, views
    )
    frames, captions = source.validation(objects, azimuth, elevation, size, seen)
    text = source.text([c for c in captions for _ in range(views)])
    x = (frames * 2 - 1).to(device)
    noise = torch.randn(x.shape, generator=generator).to(device)
    camera = camera_vector(azimuth.flatten(), elevation.flatten(), objects * views)
    result = {}
    for t in (100, 300, 500, 700, 900):
        steps = torch.full((objects * views,), t, dtype=torch.long)
        batch = to_device(Batch(x, steps, text, camera, views, torch.ones_like(steps, dtype=torch.bool)), device)
        z = schedule.add_noise(x, noise, batch.t)
        with torch.autocast(z.device.type, torch.bfloat16, enabled=bf16):
            x0 = predict_x0(net, z, batch.t, batch.text, batch.camera, views)
        result[f"x0_{t}"] = float((x0 - x).square().mean())
    result["x0"] = sum(result.values()) / 5
    return result


def train(
    state: TrainState,
    source: Source,
    config: TrainConfig,
    folder: Path,
    device: torch.device | str,
    sample: Callable[[TrainState], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> TrainState:
    """Run to `config.steps`, writing folder/checkpoint-*.safetensors and folder/train.jsonl. Stops early, saved, if
    folder/stop exists."""
    schedule = squared_cosine_schedule()
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    first, running, last = state.step, 0.0, time.perf_counter()
    shadow = copy_for_ema(config, device)

    def validate() -> None:
        nonlocal last
        now = time.perf_counter()
        state.seconds += now - last
        shadow.load_state_dict(state.ema)
        entry = {"step": state.step, "frames": state.frames, "size": config.size, "train": running}
        entry |= {"seconds": state.seconds}
        entry |= validation_error(shadow, source, config.size, schedule, device, config.bf16)
        seen = validation_error(shadow, source, config.size, schedule, device, config.bf16, seen=True)
        entry |= {"seen": seen["x0"], "seen_900": seen["x0_900"]}
        with (folder / "train.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        say(
            f"step {state.step} · {state.frames} frames · loss {running:.4f} · x0 error held-out {entry['x0']:.4f}, "
            f"seen {entry['seen']:.4f}"
        )
        last = time.perf_counter()

    if state.step == 0:  # what the weights that it goes on from reach, to compare with
        validate()
    while state.step < config.steps:
        batch = to_device(draw_batch(source, config, generator), device)
        noise = torch.randn(batch.x.shape, generator=generator).to(device)
        for group in state.optimizer.param_groups:
            group["lr"] = rate(config, state.step, state.step - first)
        loss = x0_loss(state.net, batch, noise, schedule, config)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.net.parameters(), 1.0)
        state.optimizer.step()
        state.step += 1
        state.frames += len(batch.x)
        decay = min(config.ema, (1 + state.step) / (10 + state.step))  # a short memory while the start is near
        update_ema(state, decay)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The training loss became {value} at step {state.step}; resume with a lower learning rate."
            )
        running = value if running == 0 else 0.99 * running + 0.01 * value
        if state.step % config.validate_every == 0 or state.step == config.steps:
            validate()
        stop = (folder / "stop").exists()
        if state.step % config.save_every == 0 or state.step == config.steps or stop:
            save_checkpoint(state, folder / "checkpoint.safetensors")
        if sample is not None and state.step % config.sample_every == 0:
            sample(state)
        if stop:
            break
    return state


def copy_for_ema(config: TrainConfig, device: torch.device | str) -> UNet2DConditionModel:
    return to(build_network(config.channels), device).eval().requires_grad_(False)


@torch.no_grad()
def update_ema(state: TrainState, decay: float) -> None:
    live = state.net.state_dict()
    for k, average in state.ema.items():
        average.lerp_(live[k], 1 - decay)


def name_of(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__.lower()


def save_checkpoint(state: TrainState, path: Path) -> None:
    """Everything a local resume needs: live and EMA weights and the optimiser's moments, in one safetensors file."""
    tensors = {f"net.{k}": v for k, v in state.net.state_dict().items()} | {
        f"ema.{k}": v for k, v in state.ema.items()
    }
    for i, entry in state.optimizer.state_dict()["state"].items():
        tensors |= {f"opt.{i}.{k}": v for k, v in entry.items()}
    numbers = {"step": str(state.step), "frames": str(state.frames), "seconds": str(state.seconds)}
    numbers["optimizer"] = name_of(state.optimizer)
    temporary = path.with_suffix(".tmp")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=numbers)
    temporary.replace(path)


def load_checkpoint(state: TrainState, path: Path) -> TrainState:
    """The inverse of `save_checkpoint`, into a state of the same shape. Moments of another optimiser are left out."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        numbers = file.metadata()
        # cloned: what safetensors returns may be a window into the mapped file, which later saves replace
        tensors = {k: file.get_tensor(k).clone() for k in file.keys()}
    state.net.load_state_dict(widen({k[4:]: v for k, v in tensors.items() if k.startswith("net.")}, state.net))
    ema = widen({k[4:]: v for k, v in tensors.items() if k.startswith("ema.")}, state.net)
    state.ema = {k: ema[k].to(v.device) for k, v in state.ema.items()}
    saved = state.optimizer.state_dict()
    shapes = [p.shape for group in state.optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("opt.") and numbers.get("optimizer", "adamw") == name_of(state.optimizer):
            _, i, name = key.split(".")
            if value.ndim == 2:  # moments of a layer that has been widened since
                value = F.pad(value, (0, shapes[int(i)][1] - value.shape[1]))
            moments.setdefault(int(i), {})[name] = value
    if len(moments) == len(shapes):  # a network that has got more parameters since starts with new moments
        state.optimizer.load_state_dict({"state": moments, "param_groups": saved["param_groups"]})
    state.step, state.frames, state.seconds = int(numbers["step"]), int(numbers["frames"]), float(numbers["seconds"])
    return state
