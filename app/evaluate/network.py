"""The evaluator: two small residual networks from one view, to a point in MiniLM's text space and to an azimuth.

Input: a frame (docs/conventions.md) lit by the evaluator's own fixed lamp: lit colour (3), the same light on clay
(1), alpha (1).
    lit = sqrt(base^2 light) = base sqrt(light), gamma 2;  light = ambient + key max(0, n . l), n the camera normal.
Nouns: score(view, noun) = cos(W f(view), centred MiniLM embedding of the noun), so that any noun can be ranked,
also one that no training object had (as in CLIP, 2103.00020, with a frozen text side). Azimuth: eight bins of 45
degrees.

Nothing here knows the prior; the weights' families, light, cameras and augmentations are its own
(app/training/evaluator.py).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from app.errors import MissingError
from guidance.priors.text import WIDTH, TextEncoder
from renderers.frames import normals

SIZE = 64
INPUTS = 5
FEATURES = 256
AZIMUTH_BINS = 8
WIDTHS = (32, 64, 128, 256)
AMBIENT, KEY = 0.45, 0.75  # linear; a surface that faces the lamp is 1.2 times as bright as its base colour
LAMP = (0.40, 0.60, 0.69)  # camera axes: from the upper right (the previews' lamp comes from the upper left)
BACKGROUND = 0.8
CLAY = 0.6
FORMAT = 1
WEIGHTS = "evaluator.safetensors"


def light_frames(frames: Tensor) -> Tensor:
    """What the network sees of frames (B, 7, 64, 64) in [0, 1]: (B, 5, 64, 64) = lit colour, lit clay, alpha.

    The same for a render, a sampled frame and an exported asset. ValueError for another shape.
    """
    if frames.shape[1:] != (7, SIZE, SIZE):
        raise ValueError(f"The evaluator takes frames of shape (B, 7, {SIZE}, {SIZE}), got {tuple(frames.shape)}.")
    alpha = frames[:, 3:4].clamp(0, 1)
    base = ((frames[:, :3] - 0.5 * (1 - alpha)) / alpha.clamp(min=0.05)).clamp(0, 1)
    x, y, z = normals(frames).split(1, 1)
    length = (x * x + y * y + z * z).sqrt().clamp(min=0.05)  # shorter normals (empty pixels) stay short
    cosine = (LAMP[0] * x + LAMP[1] * y + LAMP[2] * z) / (length * math.hypot(*LAMP))
    light = (AMBIENT + KEY * cosine.clamp(min=0)).sqrt()
    lit = torch.cat([base * light, CLAY * light], 1).clamp(max=1)
    return torch.cat([lit * alpha + BACKGROUND * (1 - alpha), alpha], 1)


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a pooled 1 x 1 one; halves the size."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(h + self.skip(F.avg_pool2d(x, 2)))


class Trunk(nn.Module):
    """(B, 5, 64, 64) from `light_frames` -> (B, C, 4, 4)."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.stem = nn.Conv2d(INPUTS, widths[0], 4, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(Block(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.stem((x - 0.6) * 3)))
        for block in self.blocks:
            h = block(h)
        return h


class NounNetwork(nn.Module):
    """(B, 5, 64, 64) -> features (B, 256) and unit points in the text space (B, 384)."""

    def __init__(self, widths: Sequence[int] = WIDTHS):
        super().__init__()
        self.trunk = Trunk(widths)
        self.features = nn.Linear(widths[-1], FEATURES)
        self.text = nn.Linear(FEATURES, WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.text_mean: Tensor
        self.register_buffer("text_mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.features(self.trunk(x).mean((2, 3)))
        return f, F.normalize(self.text(F.relu(f)), dim=1)


class ViewNetwork(nn.Module):
    """(B, 5, 64, 64) -> azimuth logits (B, 8). Its head sees where in the picture things are."""

    def __init__(self, widths: Sequence[int] = WIDTHS):
        super().__init__()
        self.trunk = Trunk(widths)
        self.narrow = nn.Conv2d(widths[-1], 32, 1)
        self.hidden = nn.Linear(32 * 16, 128)
        self.azimuth = nn.Linear(128, AZIMUTH_BINS)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.narrow(self.trunk(x))).flatten(1)
        return self.azimuth(F.relu(self.hidden(h)))


class Network(nn.Module):
    """Both: what it is, and from where it is seen. Trained one after the other."""

    def __init__(self, widths: Sequence[int] = WIDTHS):
        super().__init__()
        self.widths = tuple(widths)
        self.noun = NounNetwork(widths)
        self.view = ViewNetwork(widths)


def embed_nouns(encoder: TextEncoder, nouns: Sequence[str]) -> Tensor:
    """(N, 384): the mean of each noun's MiniLM token embeddings, of unit length; not yet centred."""
    rows = []
    for k in range(0, len(nouns), 64):
        e = encoder(nouns[k : k + 64])
        rows.append(F.normalize(e.tokens.sum(1) / e.mask.sum(1, keepdim=True), dim=1))
    return torch.cat(rows)


def front_score(logits: Tensor) -> Tensor:
    """(B,) in [-1, 1]: the expected cosine of the azimuth under the bins' probabilities. Above 0 is "front"."""
    centre = torch.arange(AZIMUTH_BINS, device=logits.device) * (2 * math.pi / AZIMUTH_BINS)
    return logits.softmax(1) @ centre.cos()


def mirrored(frames: Tensor) -> Tensor:
    """Frames (B, 7, H, W) of the mirrored object seen from the mirrored azimuth: what is front stays front."""
    x = frames.flip(3)
    return torch.cat([x[:, :4], 1 - x[:, 4:5], x[:, 5:]], 1)


@dataclass(frozen=True)
class Views:
    """What the evaluator says of B views: `features` (B, 256), `scores` (B, N) cosines of the N asked nouns, `front`
    (B,) in [-1, 1], above 0 for views from the front."""

    features: Tensor
    scores: Tensor
    front: Tensor


class Evaluator:
    """The shipped network and the text encoder that ranks any nouns. `config` is config.json: accuracies on held-out
    renders (the stated ceiling), the share of real back views called front, the training's settings."""

    def __init__(self, net: Network, encoder: TextEncoder, config: dict[str, Any]):
        self.net, self.encoder, self.config = net.eval().requires_grad_(False), encoder, config
        self._nouns: dict[tuple[str, ...], Tensor] = {}

    def nouns(self, names: Sequence[str]) -> Tensor:
        """(N, 384) centred unit embeddings."""
        key = tuple(names)
        if key not in self._nouns:
            self._nouns[key] = F.normalize(embed_nouns(self.encoder, names) - self.net.noun.text_mean, dim=1)
        return self._nouns[key]

    @torch.no_grad()
    def __call__(self, frames: Tensor, names: Sequence[str]) -> Views:
        """Look at frames (B, 7, 64, 64) in [0, 1] and score N nouns for each of them."""
        parts = [light_frames(block) for block in frames.split(256)]
        features, points = (torch.cat(p) for p in zip(*(self.net.noun(x) for x in parts), strict=True))
        front = torch.cat([self.front(block) for block in frames.split(256)])
        return Views(features, points @ self.nouns(names).T, front)

    def front(self, frames: Tensor) -> Tensor:
        """(B,) in [-1, 1]: the mean front score of the frames and of their mirror images."""
        one, two = (front_score(self.net.view(light_frames(x))) for x in (frames, mirrored(frames)))
        return (one + two) / 2


def shipped_folder() -> Path:
    return Path(str(files("assets"))) / "evaluator"


def save_evaluator(net: Network, folder: Path, config: dict[str, Any]) -> None:
    """Write bf16 weights and config.json with their SHA-256 into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().bfloat16().contiguous() for k, v in net.state_dict().items() if v.is_floating_point()}
    save_file(state, folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    widths = list(net.widths)
    head = {"format": FORMAT, "widths": widths, "sha256": {WEIGHTS: digest}}
    (folder / "config.json").write_text(json.dumps(head | config, indent=1) + "\n", encoding="utf-8")


def load_evaluator(folder: Path | None = None, encoder: TextEncoder | None = None) -> Evaluator:
    """The shipped evaluator (or another folder's), float32, frozen, on the CPU. MissingError, one sentence, if a file
    is absent, truncated or altered."""
    folder = shipped_folder() if folder is None else folder
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        data = (folder / WEIGHTS).read_bytes()
        if config["format"] != FORMAT or hashlib.sha256(data).hexdigest() != config["sha256"][WEIGHTS]:
            raise ValueError("checksum")
        net = Network(config["widths"])
        missing = net.load_state_dict({k: v.float() for k, v in load(data).items()}, strict=False)
        if missing.unexpected_keys or any(not k.endswith("num_batches_tracked") for k in missing.missing_keys):
            raise ValueError("keys")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as e:
        raise MissingError(
            f"The evaluator's files in {folder} are missing, truncated or altered; reinstall Polymode or restore them."
        ) from e
    return Evaluator(net, encoder or TextEncoder(), config)
