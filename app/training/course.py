"""The course of a training: how long, how fast, how large, with everything that was left open decided.

All that changes over a training follows one number, the share u in [0, 1] of it that is done: of its steps where they
are given, else of its time.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from app.errors import UsageError
from app.training.options import Mix, Train
from app.training.sets import FRAMES

SIZE = 64
WARM, DECAY_FROM, FINAL = 0.02, 0.5, 0.01  # of the learning rate: shares of the training, and what is left at its end
HALF_LIFE = 0.03  # of the EMA, as a share of the training
DEFAULT_CHANNELS = {"cpu": (64, 128, 192), "cuda": (128, 192, 256)}
MOST_RANDOM, MOST_RECOLORED = 32, 12
POOL_BYTES = 2 << 30  # of frames on a CPU
POOL_SHARE = 0.4  # of a GPU's free memory


@dataclass(frozen=True)
class Course:
    """What app/training/trainer.py goes by."""

    device: torch.device
    channels: tuple[int, ...]
    seconds: float
    steps: int | None
    batch: int
    learning_rate: float
    small_share: float
    bf16: bool
    seed: int
    checks: int
    sheet: int
    checkpoint_seconds: float
    refresh: bool
    workers: int
    mix: Mix

    def share(self, step: int, seconds: float) -> float:
        """How much of the training is done."""
        return step / self.steps if self.steps is not None else seconds / self.seconds

    def rate(self, u: float) -> float:
        """The learning rate: a warm-up, then constant, then a cosine."""
        warm = min(1.0, (u + 1e-4) / WARM)
        v = min(1.0, max(0.0, (u - DECAY_FROM) / (1 - DECAY_FROM)))
        return self.learning_rate * warm * (FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * v)))

    def ema_decay(self, step: int, passed: float) -> float:
        """What an average over the last HALF_LIFE keeps in a step that was a share `passed` of the training; a short
        memory while the start is near."""
        return min(0.5 ** (max(passed, 1e-9) / HALF_LIFE), (1 + step) / (10 + step))


def checked(a: Train) -> Train:
    """`a` as it came, or UsageError, one sentence, for numbers that are none for a training."""
    least = {"minutes": 1e-3, "steps": 1, "batch": 4, "learning_rate": 1e-9, "workers": 1, "threads": 1}
    least |= {"random_sets": 1, "recolored_sets": 0, "checks": 1, "sheet": 0, "checkpoint_minutes": 1e-3, "seed": 0}
    for name, low in least.items():
        value = getattr(a, name)
        if value is not None and not (value >= low and math.isfinite(value)):
            raise UsageError(f"--{name.replace('_', '-')} is {low:g} or more, not {value}.")
    if a.small_share is not None and not 0 <= a.small_share < 1:
        raise UsageError(f"--small-share is from 0 to less than 1, not {a.small_share}.")
    if a.channels and (len(a.channels) < 2 or any(c < 16 or c % 16 for c in a.channels)):
        raise UsageError(f"--channels are two or more multiples of 16, not {' '.join(map(str, a.channels))}.")
    for name, known in (("device", ("auto", "cpu", "cuda")), ("precision", ("bfloat16", "float32"))):
        if (value := getattr(a, name)) not in known:
            raise UsageError(f"--{name} is one of {', '.join(known)}, not {value!r}.")
    for name, value in vars(a.mix).items():
        if not 0 <= value <= (1 if name not in ("skew", "max_weight") else 1e3):
            raise UsageError(f"--mix.{name.replace('_', '-')} is from 0 to 1, not {value}.")
    if sum((a.mix.canonical, a.mix.random, a.mix.picture, a.mix.single, a.mix.blind)) <= 0:
        raise UsageError("The shares --mix.canonical, random, picture, single and blind are all 0; leave one above.")
    return a


def course(a: Train, device: torch.device, channels: tuple[int, ...]) -> Course:
    """`a` on `device`, for a network of `channels`."""
    cuda = device.type == "cuda"
    fresh = a.init is None
    rate = a.learning_rate if a.learning_rate is not None else 1e-3 if fresh else 3e-4
    return Course(
        device=device,
        channels=channels,
        seconds=60 * a.minutes,
        steps=a.steps,
        batch=a.batch or (780 if cuda else 24),
        learning_rate=rate,
        small_share=a.small_share if a.small_share is not None else 0.15 if fresh else 0.0,
        bf16=a.precision == "bfloat16",
        seed=a.seed,
        checks=a.checks,
        sheet=a.sheet,
        checkpoint_seconds=60 * a.checkpoint_minutes,
        refresh=a.refresh if a.refresh is not None else cuda and a.steps is None,
        workers=a.workers or max(1, (os.cpu_count() or 1) - 2),
        mix=a.mix,
    )


def rounds(a: Train, objects: int, recolorable: int, device: torch.device) -> tuple[int, int]:
    """(random, recoloured) sets an object: what was asked for, or as many of both as fit into memory."""
    room = torch.cuda.mem_get_info(device)[0] * POOL_SHARE if device.type == "cuda" else POOL_BYTES
    frames = room / (7 * SIZE * SIZE * FRAMES) - objects
    share = max(0.0, min(1.0, frames / (MOST_RANDOM * objects + MOST_RECOLORED * max(1, recolorable))))
    random = max(2, int(MOST_RANDOM * share)) if a.random_sets is None else a.random_sets
    recolored = max(2, int(MOST_RECOLORED * share)) if a.recolored_sets is None else a.recolored_sets
    return random, recolored if recolorable else 0
