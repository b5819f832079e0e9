"""The embedded prior's weights, written and loaded; guidance/priors/embedded_files.py says what files they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from guidance.errors import MissingWeights
from guidance.priors.embedded_files import CAMERA_WIDTH, FORMAT, read_shards
from guidance.priors.embedded_network import CHANNELS, PATCH, build_network, to
from guidance.priors.unet import UNet2DConditionModel

SHARD_BYTES = 14_000_000


def export_weights(
    state: dict[str, Tensor], folder: Path, channels: tuple[int, ...], training: dict[str, Any], size: int = 64
) -> None:
    """Write `state` (EMA weights) as bf16 shards and config.json into `folder`. Shards of an earlier export are
    replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for key, value in state.items():
        value = value.detach().cpu().bfloat16().contiguous()
        if value.nbytes > room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][key] = value
        room -= value.nbytes
    names = {}
    for i, shard in enumerate(shards):
        path = folder / f"prior-{i + 1}-of-{len(shards)}.safetensors"
        save_file(shard, path)
        names[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for stale in set(folder.glob("prior-*-of-*.safetensors")) - {folder / n for n in names}:
        stale.unlink()
    config = {
        "format": FORMAT,
        "channels": list(channels),
        "condition_width": state["class_embedding.linear_1.weight"].shape[1]
        if "class_embedding.linear_1.weight" in state
        else CAMERA_WIDTH,
        "refined": any(k.startswith("refinement.") for k in state),
        "pictured": "conv_in.weight" in state and state["conv_in.weight"].shape[1] > CHANNELS * PATCH**2,
        "size": size,
        "shards": names,
        "training": training,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_network(folder: Path, device: torch.device | str) -> tuple[UNet2DConditionModel, dict[str, Any]]:
    """The network in float32, frozen, and its config. MissingWeights as `read_shards`, or if they do not fit the
    network."""
    shards, config = read_shards(folder)
    state: dict[str, Tensor] = {}
    with torch.device("meta"):
        net = build_network(
            tuple(config["channels"]),
            condition_width=int(config["condition_width"]),
            refined=bool(config["refined"]),
            pictured=bool(config["pictured"]),
        )
    try:
        for data in shards:
            state |= load(data)
        net.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
    except (SafetensorError, RuntimeError) as e:
        raise MissingWeights(
            f"The weights in {folder} do not fit the network that config.json describes; restore both."
        ) from e
    return to(net, device).eval().requires_grad_(False), config
