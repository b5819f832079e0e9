"""Where a picture was taken from, and how large the whole object is: a small network on the cut-out.

A cut-out shows neither the object's far side nor the camera's height. Training objects are framed by their bounding
sphere; a cut-out can only be framed by its silhouette. From a cut-out in the silhouette's frame
(app/pictures/cutout.py) the network answers

    elevation (radians), log s, c_x, c_y:    picture = the cut-out, shrunk by s about its centre, which is moved to c

with c in halves of the picture (x rightwards, y downwards), as seen by the default camera: fov 40 degrees, distance
2.95, the bounding sphere filling 99 % of the picture. Trained by app/training/pose.py.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from app.errors import MissingError
from guidance.prior import to_signed

SIZE = 64
FILL = 0.9  # of half the picture: the larger half-extent of the silhouette's bounding box
SCALES = (math.radians(15), 0.15, 0.1, 0.1)  # one unit of each output
MEANS = (math.radians(15), -0.3, 0.0, 0.0)


@dataclass(frozen=True)
class Pose:
    """Of B pictures: elevation (B,) radians, scale (B,) by which the cut-out shrinks (at most about 1), centre (B, 2)
    that the silhouette's centre gets."""

    elevation: Tensor
    scale: Tensor
    centre: Tensor


class PoseNet(nn.Module):
    """(B, 4) from cut-outs (B, 4, 64, 64): lit RGB on mid-grey and alpha, in [0, 1]."""

    def __init__(self, width: int = 32):
        super().__init__()
        widths = [4, width, 2 * width, 4 * width, 4 * width, 4 * width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 5 if i == 0 else 3, 2, 2 if i == 0 else 1) for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, w) for w in widths[1:])
        self.hidden = nn.Linear(4 * widths[-1], 128)
        self.out = nn.Linear(128, 4)

    def forward(self, cutout: Tensor) -> Tensor:
        x = to_signed(cutout)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.silu(norm(convolution(x)))
        return self.out(F.silu(self.hidden(x.flatten(1))))


def decode(out: Tensor) -> Pose:
    """The network's numbers in their units."""
    values = out * out.new_tensor(SCALES) + out.new_tensor(MEANS)
    return Pose(values[:, 0], values[:, 1].exp().clamp(0.2, 1.1), values[:, 2:])


def encode(pose: Pose) -> Tensor:
    """The inverse of `decode`: the network's targets (B, 4)."""
    values = torch.cat([pose.elevation[:, None], pose.scale.log()[:, None], pose.centre], 1)
    return (values - values.new_tensor(MEANS)) / values.new_tensor(SCALES)


def pose_folder() -> Path:
    """Where the shipped weights are."""
    return Path(str(files("assets"))) / "pose"


def load_pose(folder: Path | None = None) -> PoseNet:
    """The shipped network, its checksum verified. MissingError, in one sentence, where it is absent or damaged."""
    folder = folder or pose_folder()
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        data = (folder / "pose.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != config["sha256"]:
            raise ValueError("checksum")
        net = PoseNet(int(config["width"]))
        net.load_state_dict({k: v.float() for k, v in load(data).items()})
    except Exception as e:
        raise MissingError(
            f"The pose network in {folder} is missing or damaged ({type(e).__name__}); reinstall Polymode, or give "
            "--elevation."
        ) from e
    return net.eval().requires_grad_(False)


@torch.no_grad()
def estimate(net: PoseNet, cutouts: Tensor) -> Pose:
    """Of cut-outs (B, 4, S, S) in the silhouette's frame; the mean over each and its mirror image."""
    small = F.interpolate(cutouts, (SIZE, SIZE), mode="area") if cutouts.shape[-1] != SIZE else cutouts
    one, other = decode(net(small)), decode(net(small.flip(3)))
    centre = torch.stack([one.centre[:, 0] - other.centre[:, 0], one.centre[:, 1] + other.centre[:, 1]], 1) / 2
    return Pose((one.elevation + other.elevation) / 2, (one.scale * other.scale).sqrt(), centre)


def silhouette_box(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (B, 2; x, y in halves of the picture) and larger half-extent (B,) of alpha (B, 1, S, S) above one half.
    A picture without any has the whole picture."""
    on = alpha[:, 0] > 0.5
    size = alpha.shape[-1]
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    half = 1 / size
    out = []
    for axis in (1, 2):
        seen = on.any(axis)
        low = torch.where(seen, at, 2.0).amin(1) - half
        high = torch.where(seen, at, -2.0).amax(1) + half
        empty = ~seen.any(1)
        out.append((torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)))
    centre = torch.stack([(low + high) / 2 for low, high in out], 1)
    return centre, torch.stack([(high - low) / 2 for low, high in out], 1).amax(1)
