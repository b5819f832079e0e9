"""The embedded prior's files: bf16 safetensors shards of at most 15 MB beside a config.json that names them.

config.json: {"format": 1, "channels": [...], "condition_width": 416, "refined": true, "size": 64,
"shards": {file: sha256}, "training": {...}}.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from guidance.errors import MissingWeights
from guidance.priors.embedded_network import CAMERA_WIDTH, CHANNELS, PATCH, build_network, to

SHARD_BYTES = 14_000_000
FORMAT = 1


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


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a weights folder. MissingWeights, in one sentence, if it is absent or not ours."""
    path = folder / "config.json"
    if not path.is_file():
        raise MissingWeights(
            f"No prior at {folder} (config.json is missing); give --prior a folder of exported weights."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise KeyError("format")
        return {
            "channels": tuple(int(c) for c in config["channels"]),
            "condition_width": CAMERA_WIDTH,  # of the first weights, whose config.json does not say
            "refined": False,  # likewise
            "pictured": False,
            "size": int(config["size"]),
        } | config
    except (ValueError, KeyError, TypeError) as e:
        raise MissingWeights(
            f"{path} is not a Polymode prior's configuration; restore the file or choose another --prior."
        ) from e


def read_shards(folder: Path) -> tuple[list[bytes], dict[str, Any]]:
    """The shards' bytes, their checksums verified, and the config. MissingWeights for absent, truncated or altered
    files."""
    config = read_config(folder)
    shards = []
    for name, digest in config["shards"].items():
        path = folder / Path(name).name
        if not path.is_file():
            raise MissingWeights(f"The weights file {path} is missing; reinstall Polymode or choose another --prior.")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise MissingWeights(
                f"The weights file {path} is truncated or altered; reinstall Polymode or restore the file."
            )
        shards.append(data)
    return shards, config


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
