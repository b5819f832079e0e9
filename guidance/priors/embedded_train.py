"""Training the embedded prior: x0 regression on joint multi-view frames with camera, text and picture conditions.

loss = min(1/s_t^2, max_weight) * mean (x0_net(z_t, t, c) - x)^2, z_t = a_t x + s_t eps, each frame with its own t,
squared cosine schedule. app/training draws the batches and runs the loop; here are the loss, the error that is
measured, and the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from guidance.prior import NoiseSchedule, to_signed
from guidance.priors.embedded_network import (
    build_network,
    camera_vector,
    geometry_time,
    pad_inputs,
    predict_x0,
    to,
    widen,
)
from guidance.priors.embedded_sets import HIGH, LOW, PICTURE_HIGH, PICTURE_LOW, Batch, Source, TrainConfig
from guidance.priors.embedded_weights import load_network
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
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)


def x0_loss(
    net: UNet2DConditionModel, batch: Batch, noise: Tensor, schedule: NoiseSchedule, config: TrainConfig
) -> Tensor:
    """min(1/s^2, max_weight)-weighted mean squared x0 error over the frames that are targets."""
    target = batch.target[:, None, None, None]
    own = batch.t if batch.geometry is None else batch.geometry

    def channels(level: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, 7, 1, 1): three of colour, four of alpha and normals."""
        return torch.cat([level(batch.t).expand(-1, 3, 1, 1), level(own).expand(-1, 4, 1, 1)], 1)

    a, s = channels(schedule.a), channels(schedule.s)
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
    objects: int = 16,
) -> dict[str, float]:
    """Mean squared x0 error, unweighted, of joint frames of held-out families (or of training families: `seen`) at
    t = 100, 300, 500, 700, 900, with fixed noise. `pictured`: the first view's azimuth is a picture's, and no text."""
    generator = torch.Generator().manual_seed(1234)
    views = 4
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


def copy_for_ema(config: TrainConfig, device: torch.device | str) -> UNet2DConditionModel:
    return to(build_network(config.channels), device).eval().requires_grad_(False)


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
