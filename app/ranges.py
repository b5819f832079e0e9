"""What every number of a run may be, by its flag: `check` refuses the rest in one sentence. nan is in no range."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from app.errors import UsageError

Range = tuple[float, float]
SIGMA: Range = (0.01, 10_000)  # noise levels
SCALE: Range = (0, 1000)  # classifier-free guidance, Form A
RATE: Range = (0, 10)
SHARE: Range = (0, 1)
WEIGHT: Range = (0, 1e9)
ELEVATION: Range = (-80, 80)
ANY: Range = (-1e12, 1e12)

LORA: dict[str, Range] = {
    "rank": (1, 64),
    "rate": RATE,
    "updates": (0, 64),
    "known": SHARE,
    "warm": (0, 10_000),
    "drop": SHARE,
    "sigma-min": SIGMA,
    "sigma-max": SIGMA,
}
RANGES: dict[str, Range] = {
    "best-of": (1, 64),
    "seed": (0, 2**63 - 1),
    "guide.clip": (0, 1e6),
    "guide.clip-pixel": (0, 1e6),
    "guide.cfg.rescale": SHARE,
    "guide.cfg.perp-weight": (-1000, 0),
    "guide.cfg.gain-low": SCALE,
    "guide.cfg.gain-high": SCALE,
    "guide.cfg.memory": SHARE,
    "guide.cfg.to-detail": SHARE,
    "guide.cfg.to-zero": SHARE,
    "guide.cfg.quantile": (0, 0.5),
    "csd.positive": SCALE,
    "csd.negative": SCALE,
    "ssd.sigma-m": (0, 10_000),
    "nfsd.sigma-noisy": (0, 10_000),
    **{f"{method}.lora.{name}": r for method in ("vsd", "esd", "fdistill") for name, r in LORA.items()},
    "esd.entropy": SHARE,
    "sdi.inversion-scale": (-1000, 1000),
    "sdi.steps": (1, 1000),
    "sdi.sigma-first": SIGMA,
    "sdi.tau": SHARE,
    "sdi.fresh": (0, 10),
    "dsd.w2": SCALE,
    "dsd.hold": SCALE,
    "dsd.guide-above": (0, 10_000),
    "dsd.knots": (2, 1000),
    "dsd.sigma-first": (0.01, 1e9),
    "dsd.sigma-last": SIGMA,
    "dsd.elevation": ELEVATION,
    "dsd.offsets": (1, 64),
    "dsd.rings": (1, 64),
    "dsd.anchor-share": SHARE,
    "fdistill.alpha": SHARE,
    "fdistill.bank": (1, 256),
    "fdistill.rate": RATE,
    "fdistill.gamma": WEIGHT,
    "fdistill.memory": SHARE,
    "field.steps": (1, 100_000),
    "field.sets": (1, 64),
    "field.resolution": (16, 256),
    "field.samples": (8, 512),
    "field.scale": SCALE,
    "field.sigma-max": SIGMA,
    "field.sigma-init": SIGMA,
    "field.sigma-min": SIGMA,
    "field.rate-density": RATE,
    "field.rate-color": RATE,
    "field.smooth-density": WEIGHT,
    "field.smooth-color": WEIGHT,
    "field.blob-density": (0.1, 1000),
    "field.blob-radius": (0.05, 0.95),
    "mesh.resolution": (16, 512),
    "mesh.faces": (100, 200_000),
    "mesh.keep": SHARE,
    "refine.steps": (0, 100_000),
    "refine.sets": (1, 64),
    "refine.scale": SCALE,
    "refine.sigma-max": SIGMA,
    "refine.sigma-min": SIGMA,
    "refine.grid": (16, 128),
    "refine.rounds": (1, 16),
    "refine.faces-coarse": (100, 60_000),
    "refine.faces-fine": (100, 60_000),
    "refine.rate": (1e-6, 0.1),
    "refine.rate-end": (1e-6, 0.1),
    "refine.smoothness": (0, 10_000),
    "refine.weight-bend": WEIGHT,
    "refine.rate-color": RATE,
    "refine.smooth-color": WEIGHT,
    "direct.views": (4, 8),
    "direct.elevation": ELEVATION,
    "direct.steps": (1, 1000),
    "direct.scale": SCALE,
    "direct.guide-above": (0, 10_000),
    "direct.hull": (16, 192),
    "direct.level": (0.01, 0.99),
    "direct.margin": (-8, 8),
    "direct.outvoted": (0, 7),
    "direct.rounds": (0, 16),
    "direct.fit": (1, 100_000),
    "direct.faces-coarse": (100, 60_000),
    "direct.faces-fine": (100, 60_000),
    "direct.rate": (1e-6, 0.1),
    "direct.rate-end": (1e-6, 0.1),
    "direct.smoothness": (0, 10_000),
    "direct.weight-alpha": WEIGHT,
    "direct.weight-normal": WEIGHT,
    "direct.weight-bend": WEIGHT,
    "direct.sharpness": (0, 64),
    "texture.size": (128, 8192),
    "finish.faces": (20, 20_000),
    "finish.colors": (1, 32),
    "finish.patch": SHARE,
    "azimuth": (-360, 360),
    "elevation": (-30, 60),
    "palette": SHARE,
    "weight-color": (0, 1e4),
    "weight-alpha": (0, 1e4),
    "weight-end": SHARE,
    "weight-view": (0, 100),
    "count": (0, 8),
}
NOT_ABOVE = (  # the first is at most the second
    ("field.sigma-min", "field.sigma-max"),
    ("field.sigma-min", "field.sigma-init"),
    ("refine.sigma-min", "refine.sigma-max"),
    ("refine.faces-coarse", "refine.faces-fine"),
    ("refine.rate-end", "refine.rate"),
    ("direct.faces-coarse", "direct.faces-fine"),
    ("direct.rate-end", "direct.rate"),
    ("dsd.sigma-last", "dsd.sigma-first"),
    ("vsd.lora.sigma-min", "vsd.lora.sigma-max"),
    ("esd.lora.sigma-min", "esd.lora.sigma-max"),
    ("fdistill.lora.sigma-min", "fdistill.lora.sigma-max"),
)


def numbers(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """(flag without the dashes in front, value) of every number in a recipe, each of a list's."""
    for f in dataclasses.fields(node):
        value, inner = getattr(node, f.name), (*path, f.name)
        flag = ".".join(inner[1:] if inner[0] in ("methods", "picture") else inner).replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from numbers(value, inner)
        elif isinstance(value, tuple):
            yield from ((flag, v) for v in value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield flag, value


def check_numbers(recipe: Any) -> None:
    """UsageError for a number out of its range."""
    values = dict[str, float]()
    for name, value in numbers(recipe):
        low, high = RANGES.get(name, ANY)
        if not low <= value <= high:
            raise UsageError(f"--{name} {value} is out of range; use {low} to {high}.")
        values[name] = value
    for lower, upper in NOT_ABOVE:
        if values[lower] > values[upper]:
            raise UsageError(f"--{lower} {values[lower]} is above --{upper} {values[upper]}; make it less.")
