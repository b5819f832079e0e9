"""Which sets of views there are of the training objects: a function of objects and numbers alone, so that trainer and
renderers agree on it without talking.

A set is five frames of one object: four views 90 degrees apart at one elevation, and one from above. There are
canonical sets (azimuths 0, 90, 180, 270, elevation 15 degrees, the fifth from 80), one an object; random orbits,
`random` an object; and sets of recoloured objects, `recolored` each, of which every other one is canonical. They are
numbered in this order, and rendered a chunk at a time: first all canonical ones, then a round of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.training.augment import PALETTE, article, can_recolor

FRAMES = 5  # a set
CHUNK = 8  # sets that are rendered at once
ELEVATION, TOP = math.radians(15), math.radians(80)
QUARTER = math.pi / 2
CANONICAL = np.arange(4) * QUARTER


@dataclass(frozen=True)
class Chunk:
    """`count` sets from number `first` on: of kind "canonical", "random" or "recolored", round r of it, the objects
    from `start` on (of those that may be recoloured, where the kind is that)."""

    kind: str
    round: int
    start: int
    count: int
    first: int
    generation: int = 0


@dataclass(frozen=True)
class Sets:
    """`rows`: what is known of the objects, `training`: which of them are trained on."""

    rows: Sequence[dict[str, Any]]
    training: Sequence[int]
    random: int
    recolored: int
    seed: int

    @cached_property
    def recolorable(self) -> list[int]:
        """Places in `training` of the objects that may have another colour."""
        return [k for k, i in enumerate(self.training) if can_recolor(self.rows[i])]

    @property
    def number(self) -> int:
        return self.base("recolored", self.recolored)

    def base(self, kind: str, round: int) -> int:
        """The number of the first set of a round."""
        n, m = len(self.training), len(self.recolorable)
        if kind == "canonical":
            return 0
        return n * (1 + round) if kind == "random" else n * (1 + self.random) + m * round

    @cached_property
    def chunks(self) -> list[Chunk]:
        """All sets, in the order they are rendered in."""
        rounds = [("canonical", 0)]
        for r in range(max(self.random, self.recolored)):
            rounds += [("random", r)] * (r < self.random) + [("recolored", r)] * (r < self.recolored)
        return [c for kind, r in rounds for c in self._chunks(kind, r)]

    def again(self, generation: int) -> list[Chunk]:
        """The chunks whose orbits are random, with other orbits."""
        changing = [c for c in self.chunks if c.kind == "random" or (c.kind == "recolored" and c.round % 2)]
        return [Chunk(c.kind, c.round, c.start, c.count, c.first, generation) for c in changing]

    def _chunks(self, kind: str, round: int) -> list[Chunk]:
        count, base = len(self.recolorable if kind == "recolored" else self.training), self.base(kind, round)
        return [Chunk(kind, round, s, min(CHUNK, count - s), base + s) for s in range(0, count, CHUNK)]

    def objects(self, chunk: Chunk) -> list[int]:
        """The objects (indices of `rows`) of a chunk's sets."""
        places = range(chunk.start, chunk.start + chunk.count)
        return [self.training[self.recolorable[p] if chunk.kind == "recolored" else p] for p in places]

    def colors(self, chunk: Chunk) -> list[str | None]:
        """The colour that a chunk's objects get; None: their own."""
        places = range(chunk.start, chunk.start + chunk.count)
        return [self.color(p, chunk.round) if chunk.kind == "recolored" else None for p in places]

    @cached_property
    def _colors(self) -> NDArray[np.int64]:
        """(recolorable, palette): the order in which an object gets its colours."""
        rng = np.random.default_rng((self.seed, 1))
        return np.argsort(rng.random((len(self.recolorable), len(PALETTE))), 1)

    def color(self, place: int, round: int) -> str:
        return list(PALETTE)[self._colors[place, round % len(PALETTE)]]

    def recolored_caption(self, place: int, round: int) -> str:
        name = self.rows[self.training[self.recolorable[place]]]["name"]
        return article(f"{self.color(place, round)} {name}")

    def views(self, chunk: Chunk) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Azimuths and elevations (count, 5), radians."""
        azimuth, elevation = np.zeros((chunk.count, FRAMES)), np.full((chunk.count, FRAMES), ELEVATION)
        if chunk.kind == "canonical" or (chunk.kind == "recolored" and chunk.round % 2 == 0):
            azimuth[:, :4], elevation[:, 4] = CANONICAL, TOP
        else:
            key = (self.seed, 2, chunk.generation, chunk.kind == "random", chunk.round, chunk.start)
            u = np.random.default_rng(key).random((chunk.count, 4))
            azimuth[:, :4] = u[:, :1] * 2 * math.pi + CANONICAL
            elevation[:, :4] = np.radians(-10 + 70 * u[:, 1:2])
            azimuth[:, 4], elevation[:, 4] = u[:, 2] * 2 * math.pi, np.radians(45 + 40 * u[:, 3])
        return azimuth.astype(np.float32), elevation.astype(np.float32)
