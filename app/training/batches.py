"""Batches for a training: drawn on the CPU as small arrays of numbers, made into frames on the device.

A batch is of one kind (app/training/options.py, Mix), so that it is dense, and on a GPU has the same number of frames
whatever its kind. Nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from app.training.data import family_weights
from app.training.options import Mix
from app.training.photograph import photograph
from app.training.rendering import CHANNELS, LEVELS, Pool
from app.training.sets import FRAMES, QUARTER
from app.training.texts import Texts, wording
from guidance.prior import to_frames, to_signed
from guidance.priors.embedded_network import camera_vector
from guidance.priors.embedded_sets import Batch

KINDS = ("canonical", "random", "picture", "single", "blind")
WHOLE = 60  # frames: what 4, 5 and 6 an object divide
Floats, Ints, Bools = NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]


@dataclass(frozen=True)
class Draw:
    """A batch as numbers: N objects, V frames each, the first `pictures` of them photographs."""

    kind: str
    frame: Ints  # (N, V) rows of the pool
    azimuth: Floats  # (N, V), radians
    elevation: Floats
    mirror: Bools  # (N,)
    text: Ints  # (N,) captions
    t: Ints  # (N, V)
    geometry: Ints | None  # (N, V), of alpha and normals
    pictures: int
    cameras: bool
    elevations: bool
    relative: bool


class Drawer:
    """What batches are drawn from: `pool`'s sets, and the captions of its objects, which go into `texts`."""

    def __init__(self, pool: Pool, texts: Texts, mix: Mix):
        self.pool, self.texts, self.mix = pool, texts, mix
        sets, n = pool.sets, len(pool.sets.training)
        shares = np.array([getattr(mix, kind) for kind in KINDS])
        self.shares = shares / shares.sum()
        self.cumulative = np.cumsum(family_weights(list(sets.rows), list(sets.training)))
        self.nothing = texts.add("")
        captions = [sets.rows[i]["captions"] for i in sets.training]
        self.count = np.array([len(c) for c in captions])
        self.first = np.cumsum(self.count) - self.count
        self.captions = np.array([texts.add_wordings(c) for some in captions for c in some])  # (captions, WORDINGS)
        m = len(sets.recolorable)
        self.recolored = np.array(  # (rounds, recolorable, WORDINGS)
            [
                [texts.add_wordings(sets.recolored_caption(k, r)) for k in range(m)]
                for r in range(min(1, m) * sets.recolored)
            ]
        )
        self.place = np.full(n, -1)  # among the recolorable
        self.place[sets.recolorable] = np.arange(m)

    def sets(self, rng: np.random.Generator, objects: Ints, canonical: Bools) -> tuple[Ints, Ints]:
        """Set and caption (N,) for N of the training objects, of canonical or random views."""
        sets, pool = self.pool.sets, self.pool
        u = rng.random((6, len(objects)))
        canonical = canonical | (pool.random == 0)
        n, words = len(sets.training), wording(u[1], u[2])
        ids = np.where(canonical, objects, n * (1 + (u[0] * pool.random).astype(int)) + objects)
        text = self.captions[self.first[objects] + (u[3] * self.count[objects]).astype(int), words]
        place = self.place[objects]
        rounds = np.where(canonical, (pool.recolored + 1) // 2, pool.recolored // 2)
        wanted = (u[5] < self.mix.recolor) & (place >= 0) & (rounds > 0)
        if not wanted.any():
            return ids, text
        round = np.where(wanted, 2 * (u[4] * rounds).astype(int) + ~canonical, 0)
        place = np.where(wanted, place, 0)
        other = sets.base("recolored", 0) + len(sets.recolorable) * round + place
        wanted &= pool.good[other]
        return np.where(wanted, other, ids), np.where(wanted, self.recolored[round, place, words], text)

    def draw(self, rng: np.random.Generator, frames: int) -> Draw:
        """A batch of about `frames` frames, exactly so many where they are a multiple of 60."""
        mix, pool = self.mix, self.pool
        kind = KINDS[int(rng.choice(len(KINDS), p=self.shares))]
        u = rng.random(8)
        joint = kind in ("canonical", "random", "picture")
        pictures = 0 if kind != "picture" else 2 if u[1] < mix.several else 1
        targets = 1 if not joint else 5 if u[0] < mix.fifth and pictures < 2 else 4
        v = targets + pictures
        n = max(1, (frames // WHOLE * WHOLE if frames >= WHOLE else frames) // v)
        objects = np.searchsorted(self.cumulative, rng.random(n)).clip(max=len(pool.sets.training) - 1)
        canonical = np.full(n, kind == "canonical") if kind in ("canonical", "random") else rng.random(n) < 0.5
        ids, text = self.sets(rng, objects, canonical)
        mirror = rng.random(n) < mix.mirror
        if joint:
            views = np.tile(np.arange(targets), (n, 1))
            swap = mirror & (pool.azimuth[ids, 0] == 0) & (pool.azimuth[ids, 1] == np.float32(QUARTER))
            views[swap, 1], views[swap, 3] = 3, 1  # 0, 90, 180, 270 degrees again when they are mirrored
        else:
            views = rng.integers(0, FRAMES, (n, 1))
        frame = ids[:, None] * FRAMES + views
        if pictures:
            frame = np.concatenate([self.shots(rng, ids, objects, frame, pictures, u[2] < mix.facing), frame], 1)
        sign = np.where(mirror, -1, 1).astype(np.float32)[:, None]
        azimuth = pool.azimuth.reshape(-1)[frame] * sign
        relative = bool(pictures and u[3] < 0.5)
        if relative:
            azimuth = azimuth - azimuth[:, :1]
        text = np.where(rng.random(n) < (mix.no_text_picture if pictures else mix.no_text), self.nothing, text)

        def times(*shape: int) -> Ints:
            return np.minimum((1000 * rng.random(shape) ** mix.skew).astype(np.int64), 999)

        # most sets share one t (what sampling sees), a fifth draws one a frame (what distillation may need)
        t = times(n, v) if u[4] < 0.2 else np.repeat(times(n, 1), v, 1)
        t[:, :pictures] = 0
        geometry = None
        if u[5] < mix.separate_times:
            geometry = np.repeat(times(n, 1) * (rng.random((n, 1)) < 0.5), v, 1)
            geometry[:, :pictures] = 0
        return Draw(
            kind,
            frame,
            azimuth,
            pool.elevation.reshape(-1)[frame],
            mirror,
            text,
            t,
            geometry,
            pictures,
            cameras=kind != "blind",
            elevations=not pictures or u[6] >= 0.3,
            relative=relative,
        )

    def shots(
        self, rng: np.random.Generator, ids: Ints, objects: Ints, frame: Ints, pictures: int, facing: bool
    ) -> Ints:
        """Frames (N, pictures) to photograph: of the same object in the same colours. A recoloured set has no other,
        so its own views."""
        sets, pool = self.pool.sets, self.pool
        n = len(sets.training)
        other = n * (1 + rng.integers(0, max(1, pool.random), len(ids))) + objects
        own = (ids >= sets.base("recolored", 0)) | facing | (pool.random == 0)
        side = np.argsort(rng.random((len(ids), 4)), 1)[:, :pictures]
        out = np.where(own, ids, other)[:, None] * FRAMES + side
        if facing:
            out[:, 0] = frame[:, 0]
            if pictures == 2:
                out[:, 1] = np.where(out[:, 1] == frame[:, 0], frame[:, 2], out[:, 1])
        return out


def mirrored(x: Tensor) -> Tensor:
    """Frames (B, 7, S, S) in [-1, 1] as they are of the mirrored object from the negated azimuth."""
    x = x.flip(-1)
    return torch.cat([x[:, :4], -x[:, 4:5], x[:, 5:]], 1)


def send(device: torch.device, *arrays: NDArray[np.generic]) -> list[Tensor]:
    """Small arrays of one type as one copy, which does not wait."""
    flat = torch.from_numpy(np.concatenate([np.ascontiguousarray(x).reshape(-1) for x in arrays]))
    if device.type == "cuda":
        flat = flat.pin_memory().to(device, non_blocking=True)
    return [y.reshape(x.shape) for x, y in zip(arrays, flat.split([x.size for x in arrays]), strict=True)]


def on_device(d: Draw, pool: Pool, texts: Texts, small: bool, generator: torch.Generator) -> Batch:
    """The batch itself; `small`: at half the size. `generator` is of the device."""
    (n, v), device = d.frame.shape, pool.device
    geometry = d.t if d.geometry is None else d.geometry
    flips = np.repeat(d.mirror, v).astype(np.int64)
    frame, flip, t, g, rows = send(device, d.frame, flips, d.t.reshape(-1), geometry.reshape(-1), texts.rows(d.text))
    azimuth, elevation = send(device, d.azimuth.reshape(-1), d.elevation.reshape(-1))
    words = pool.frames.view(torch.int64)  # the same bytes, eight at a time
    x = words[frame.reshape(-1)].view(torch.uint8).view(-1, CHANNELS, pool.size, pool.size)
    x = to_signed(x.float() / LEVELS)
    x = torch.where(flip[:, None, None, None] > 0, mirrored(x), x)
    if small:
        x = F.avg_pool2d(x, 2)
    is_picture = (torch.arange(v, device=device) < d.pictures).repeat(n)
    if d.pictures:
        x = x.unflatten(0, (n, v))
        shots = to_signed(photograph(to_frames(x[:, : d.pictures].flatten(0, 1)), generator))
        x = torch.cat([shots.unflatten(0, (n, d.pictures)), x[:, d.pictures :]], 1).flatten(0, 1)
    camera = camera_vector(
        azimuth if d.cameras else None,
        elevation if d.cameras and d.elevations else None,
        n * v,
        device,
        picture=is_picture,
        relative=d.relative,
    )
    return Batch(x, t, texts.embedding(rows, v), camera, v, ~is_picture, None if d.geometry is None else g)
