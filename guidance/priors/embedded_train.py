"""Training the embedded prior: x0 regression on joint multi-view frames with camera, text and picture conditions.

loss = min(1/s_t^2, max_weight) * mean (x0_net(z_t, t, c) - x)^2, z_t = a_t x + s_t eps, each frame with its own t,
squared cosine schedule. t = 1000 u^skew, u uniform: a skew below 1 spends more on high noise, where what is drawn is
decided.

The sets are drawn by guidance/priors/embedded_sets.py.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from guidance.prior import NoiseSchedule, squared_cosine_schedule, to_signed
from guidance.priors.embedded_network import (
    build_network,
    camera_vector,
    geometry_time,
    pad_inputs,
    predict_x0,
    to,
    widen,
)
from guidance.priors.embedded_sets import HIGH, LOW, PICTURE_HIGH, PICTURE_LOW, Batch, Source, TrainConfig, draw_batch
from guidance.priors.embedded_weights import load_network
from guidance.priors.muon import Muon
from guidance.priors.text import TextEmbedding
from guidance.priors.unet import UNet2DConditionModel


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
    return (error * batch.target).sum() / batch.target.sum()  # a look-up by truth would wait for a GPU


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
    pictured: bool = False,
) -> dict[str, float]:
    """Mean squared x0 error, unweighted, of joint frames of held-out families (or of training families: `seen`) at
    t = 100, 300, 500, 700, 900, with fixed noise. `pictured`: the first view's azimuth is a picture's, and no text."""
    generator = torch.Generator().manual_seed(1234)
    objects, views = 16, 4
    azimuth = torch.rand(objects, 1, generator=generator) * 2 * math.pi + torch.arange(views) * (math.pi / 2)
    elevation = (LOW + torch.rand(objects, 1, generator=generator) * (HIGH - LOW)).expand(objects, views)
    if pictured:
        own = PICTURE_LOW + torch.rand(objects, 1, generator=generator) * (PICTURE_HIGH - PICTURE_LOW)
        azimuth, elevation = torch.cat([azimuth[:, :1], azimuth], 1), torch.cat([own, elevation], 1)
    frames, captions = source.validation(objects, azimuth, elevation, size, seen)
    is_picture = (torch.arange(len(frames)) % (views + 1) == 0) if pictured else torch.zeros(len(frames)).bool()
    if pictured:
        frames[is_picture] = source.picture(frames[is_picture], generator)
        azimuth, captions, views = azimuth - azimuth[:, :1], [""] * objects, views + 1
    text = source.text([c for c in captions for _ in range(views)])
    x = to_signed(frames).to(device)
    noise = torch.randn(x.shape, generator=generator).to(device)
    camera = camera_vector(azimuth.flatten(), elevation.flatten(), len(x), picture=is_picture, relative=pictured)
    target = ~is_picture.to(device)
    result = {}
    for t in (100, 300, 500, 700, 900):
        steps = torch.full((len(x),), t, dtype=torch.long).masked_fill(is_picture, 0)
        batch = to_device(Batch(x, steps, text, camera, views, ~is_picture), device)
        z = torch.where(target[:, None, None, None], schedule.add_noise(x, noise, batch.t), x)
        with torch.autocast(z.device.type, torch.bfloat16, enabled=bf16):
            x0 = predict_x0(net, z, batch.t, batch.text, batch.camera, views)
        result[f"x0_{t}"] = float((x0 - x)[target].square().mean())
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
    (folder / "config.json").write_text(json.dumps(asdict(config)), encoding="utf-8")
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
        pictured = validation_error(shadow, source, config.size, schedule, device, config.bf16, pictured=True)
        entry |= {"pictured": pictured["x0"], "pictured_900": pictured["x0_900"]}
        with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        say(
            f"step {state.step} · {state.frames} frames · loss {running:.4f} · x0 error held-out {entry['x0']:.4f}, "
            f"seen {entry['seen']:.4f}, from a picture {entry['pictured']:.4f}"
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
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=numbers)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
            if value.ndim >= 2:  # moments of a layer that may have been widened since
                value = pad_inputs(value, shapes[int(i)])
            moments.setdefault(int(i), {})[name] = value
    if len(moments) == len(shapes):  # a network that has got more parameters since starts with new moments
        state.optimizer.load_state_dict({"state": moments, "param_groups": saved["param_groups"]})
    state.step, state.frames, state.seconds = int(numbers["step"]), int(numbers["frames"]), float(numbers["seconds"])
    return state
