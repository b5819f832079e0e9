"""Pictures of known objects for benchmarks/single_view.py, their truth, and two answers that need no prior.

A scene is an object of a held-out family, seen from a random azimuth and an elevation of -10 to 40 degrees, lit as in
app/training/photograph.py, composited off-centre on a background, saved as JPEG. The truth is turned so that the
picture's view is azimuth 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from torch import Tensor

from app.evaluate.network import Evaluator, light_frames
from app.pictures.intake import References
from app.stages.fuse import level_set
from app.training.data import Pack, split_families
from app.training.photograph import photograph
from renderers.cameras import make_cameras
from renderers.fields import vertex_positions
from renderers.hull import project, silhouette_distance
from renderers.snapshot import snapshots

RENDER = 256
HARDER = ("background", "light", "shadow", "jpeg", "crop")


@dataclass(frozen=True)
class Solid:
    """vertices (V, 3), faces (F, 3), colours (V, 3)."""

    vertices: Tensor
    faces: Tensor
    colors: Tensor

    def turned(self, azimuth: float) -> Solid:
        """So that what was seen from `azimuth` (radians) is seen from the front."""
        c, s = math.cos(azimuth), math.sin(azimuth)
        turn = torch.tensor([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
        return Solid(self.vertices @ turn.T, self.faces, self.colors)


@dataclass(frozen=True)
class Scene:
    """`picture`: a file. `azimuth`, `elevation` (radians) of its camera; `truth` in the picture's own frame."""

    index: int
    name: str
    picture: Path
    azimuth: float
    elevation: float
    truth: Solid


def chosen(pack: Pack, count: int, part: str) -> list[int]:
    """Held-out objects, evenly over their list, scans among them: part "bench", or "tune" (what settings were chosen
    on), which share none."""
    held = split_families(pack.rows)[1]
    mine = [i for k, i in enumerate(held) if (k % 5 < 3) == (part == "bench")]
    return [mine[k * len(mine) // min(count, len(mine))] for k in range(min(count, len(mine)))]


def solid_of(pack: Pack, index: int) -> Solid:
    v, _, c, f = (torch.from_numpy(np.array(x)) for x in pack.mesh(index))
    return Solid(v, f, c)


def make_scene(pack: Pack, index: int, folder: Path, seed: int = 0, harder: str = "") -> Scene:
    """Writes the picture to `folder`. `harder`: one of HARDER, or none."""
    g = torch.Generator().manual_seed(1_000_003 * seed + index)
    u = torch.rand(8, generator=g).tolist()
    azimuth, elevation = 2 * math.pi * u[0], math.radians(-10 + 50 * u[1])
    camera = make_cameras(torch.tensor([azimuth]), torch.tensor([elevation]))
    frame = torch.from_numpy(snapshots([pack.mesh(index)], camera, RENDER))
    lit = photograph(frame, g)
    if harder == "light":
        lit[:, :3] = (lit[:, :3] * 2 ** (1.5 * (2 * u[6] - 1)) - 0.3 * lit[:, :3] * (1 - frame[:, 4:5])).clamp(0, 1)
    alpha = frame[:, 3:4]
    size = 384
    scale = 0.62 + 0.3 * u[2]
    side = round(size * scale)
    rgba = F.interpolate(torch.cat([lit[:, :3] - 0.5 * (1 - alpha), alpha], 1), (side, side), mode="bilinear")[0]
    room = size - side
    left, top = (round(room * (0.2 + 0.6 * v)) for v in u[3:5])
    if harder == "crop":
        left, top = (-round(0.12 * side), top) if u[5] < 0.5 else (left, round(0.12 * side) + room)
    ground = background(size, g, busy=harder == "background")
    whole = torch.zeros(4, 3 * size, 3 * size)
    whole[:, size + top : size + top + side, size + left : size + left + side] = rgba
    whole = whole[:, size : 2 * size, size : 2 * size]
    if harder == "shadow":
        cast = torch.from_numpy(gaussian_filter(np.roll(whole[3].numpy(), (18, 30), (0, 1)), 8))
        ground = ground * (1 - 0.55 * cast)
    picture = whole[:3] + ground * (1 - whole[3:])
    pixels = (picture.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{index:04d}{'-' + harder if harder else ''}.jpg"
    Image.fromarray(pixels).save(path, quality=12 if harder == "jpeg" else 90)
    return Scene(index, pack.rows[index]["name"], path, azimuth, elevation, solid_of(pack, index).turned(azimuth))


def background(size: int, generator: torch.Generator, busy: bool) -> Tensor:
    """(3, size, size): a soft gradient of one colour, as a studio's; `busy`: blotches of many colours, as a room's."""
    u = torch.rand(8, generator=generator)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    ramp = 1 + 0.12 * (u[3] * 2 - 1) * x + 0.12 * (u[4] * 2 - 1) * y
    if not busy:
        color = 0.35 + 0.6 * u[5] + 0.12 * (u[:3] - 0.5)
        return (color[:, None, None] * ramp).clamp(0, 1)
    out = torch.zeros(3, size, size)
    for cells, share in ((4, 0.6), (12, 0.3), (48, 0.2)):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        out = out + share * F.interpolate(noise, (size, size), mode="bicubic")[0]
    return (out * ramp).clamp(0, 1)


def extruded(reference: References, depth: float) -> Solid:
    """The picture's silhouette, as deep along the view axis as `depth` times the smaller side of its bounding box,
    with its colours projected. In the object's frame, in which the picture's camera has azimuth 0."""
    cameras, frame = reference.cameras[:1], reference.fine[:1]
    alpha = frame[:, 3:4]
    rows, columns = (torch.nonzero((alpha[0, 0] > 0.5).any(a))[:, 0] for a in (1, 0))
    world = 2 * float(cameras.distance[0] * torch.tan(cameras.fov[0] / 2)) / alpha.shape[-1]
    thick = depth * world * min(len(rows) and int(rows[-1] - rows[0]), len(columns) and int(columns[-1] - columns[0]))
    resolution = 96
    points = vertex_positions(resolution).reshape(-1, 3)
    at = project(points, cameras)[0]
    distance = F.grid_sample(silhouette_distance(alpha), at[None, None], align_corners=False)[0, 0, 0] * world
    back = cameras.rotation()[0, :, 2]
    values = torch.minimum(distance, thick / 2 - (points @ back).abs())
    v, f = level_set(values.reshape(resolution, resolution, resolution))
    solid = (frame[:, :3] - 0.5 * (1 - alpha)) / alpha.clamp(min=1e-2)
    near = F.grid_sample(solid, project(v, cameras)[:, None], padding_mode="border", align_corners=False)
    return Solid(v, f, near[0, :, 0].T.clamp(0, 1))


class Nearest:
    """The training object whose view is nearest to the picture, by the evaluator's features, turned so that this view
    is the front. Shading is unknown in a picture: on both sides the network is shown flat normals."""

    AZIMUTHS, ELEVATIONS = 12, (0.0, 20.0)

    def __init__(self, pack: Pack, evaluator: Evaluator, cache: Path):
        self.pack, self.evaluator = pack, evaluator
        self.training = split_families(pack.rows)[0]
        if not cache.is_file():
            cache.parent.mkdir(parents=True, exist_ok=True)
            save_file({"features": torch.cat([self._views(i) for i in self.training]).half()}, cache)
        self.bank = F.normalize(load_file(cache)["features"].float(), dim=1)

    def _angles(self) -> tuple[Tensor, Tensor]:
        azimuth = torch.arange(self.AZIMUTHS) * (2 * math.pi / self.AZIMUTHS)
        elevation = torch.tensor([math.radians(e) for e in self.ELEVATIONS])
        return azimuth.repeat(len(elevation)), elevation.repeat_interleave(len(azimuth))

    def _views(self, index: int) -> Tensor:
        cameras = make_cameras(*self._angles())
        return self.features(torch.from_numpy(snapshots([self.pack.mesh(index)] * len(cameras), cameras, 64)))

    def features(self, frames: Tensor) -> Tensor:
        """(B, 256) of frames (B, 7, 64, 64), their normals taken for flat."""
        with torch.no_grad():
            return self.evaluator.net.noun(light_frames(flat(frames)))[0]

    def __call__(self, reference: References) -> Solid:
        f = F.normalize(self.features(reference.frames[:1]), dim=1)
        best = int((self.bank @ f[0]).argmax())
        index, view = divmod(best, len(self._angles()[0]))
        return solid_of(self.pack, self.training[index]).turned(float(self._angles()[0][view]))


def flat(frames: Tensor) -> Tensor:
    """Frames whose surface faces the camera everywhere."""
    facing = torch.tensor([0.5, 0.5, 1.0])[:, None, None]
    alpha = frames[:, 3:4]
    return torch.cat([frames[:, :4], facing * alpha + 0.5 * (1 - alpha)], 1)
