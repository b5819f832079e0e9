"""The training itself: x0 regression (guidance/priors/embedded_train.py) on batches from the pool, until its course is
run or somebody stops it.

A step draws what it needs from (seed, step) alone, so that one that was killed and resumed goes on as if nothing had
been: with --steps, where no set changes and nothing follows a clock, to the same weights on a CPU. A step whose loss
or gradient is not finite changes nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.errors import CollapseError
from app.training.batches import KINDS, Drawer, on_device
from app.training.course import SIZE, Course
from app.training.rendering import Pool
from app.training.speed import quickened, tuned
from app.training.texts import Texts
from guidance.prior import NoiseSchedule, squared_cosine_schedule
from guidance.priors.embedded_sets import TrainConfig
from guidance.priors.embedded_train import (
    TrainState,
    copy_for_ema,
    load_checkpoint,
    new_state,
    save_checkpoint,
    x0_loss,
)
from guidance.priors.unet import UNet2DConditionModel

CHECKPOINT, LOG, PAUSE = "checkpoint.safetensors", "train.jsonl", "pause"
REPORT = 15.0  # seconds between lines
MOST_BAD = 10  # steps in a row that are not finite
HALVINGS = 3  # of the batch, where a GPU's memory is too small for it


@dataclass
class Ears:
    """Who a training tells and asks. `say` takes a line; `stopped`: whether to end; `check` measures the errors,
    `export` writes the weights."""

    say: Callable[[str], None]
    stopped: Callable[[], bool]
    check: Callable[[Training], dict[str, float]]
    export: Callable[[Training], None]


@dataclass
class Training:
    """A network in training. `shadow` holds the EMA weights, `state.ema` are its tensors. `sums` on the device: loss,
    steps, bad steps in a row, the most of these, bad steps of each kind, all steps of each kind."""

    course: Course
    folder: Path
    state: TrainState
    shadow: UNet2DConditionModel
    pool: Pool
    drawer: Drawer
    texts: Texts
    config: TrainConfig
    sums: Tensor
    generator: torch.Generator
    schedule: NoiseSchedule
    batch: int
    loss: float = math.nan
    skipped: list[int] = field(default_factory=lambda: [0] * len(KINDS))
    errors: dict[str, float] = field(default_factory=dict)
    speed: float = 0.0

    @property
    def share(self) -> float:
        return self.course.share(self.state.step, self.state.seconds)

    def entry(self) -> dict[str, float]:
        """What is logged, and goes into the weights' config.json."""
        s = self.state
        loss = self.loss if math.isfinite(self.loss) else 0.0
        numbers = {"step": s.step, "frames": s.frames, "seconds": s.seconds, "size": SIZE, "train": loss}
        return numbers | {"skipped": sum(self.skipped), "frames_per_second": self.speed} | self.errors


def begin(
    course: Course,
    folder: Path,
    pool: Pool,
    drawer: Drawer,
    texts: Texts,
    init: Path | None,
    say: Callable[[str], None],
) -> Training:
    """A new training, from random weights or `init`'s, or the one whose checkpoint is in `folder`."""
    config = TrainConfig(
        channels=course.channels,
        learning_rate=course.learning_rate,
        seed=course.seed,
        bf16=course.bf16,
        max_weight=course.mix.max_weight,
    )
    device, checkpoint = course.device, folder / CHECKPOINT
    state = new_state(config, device, None if checkpoint.is_file() else init)
    if checkpoint.is_file():
        state = load_checkpoint(state, checkpoint)
        say(f"Going on from step {state.step}, {state.frames} frames, {state.seconds / 60:.1f} minutes.")
    shadow = copy_for_ema(config, device)
    shadow.load_state_dict(state.ema)
    for net in (state.net, shadow):
        quickened(net, device, course.bf16)
    state.ema = dict(shadow.state_dict())
    for p, moments in state.optimizer.state.items():  # laid out in memory as the weights are
        for key in ("exp_avg", "exp_avg_sq"):
            if key in moments:
                moments[key] = torch.empty_like(p).copy_(moments[key])
    schedule = squared_cosine_schedule()
    return Training(
        course,
        folder,
        state,
        shadow,
        pool,
        drawer,
        texts,
        config,
        torch.zeros(4 + 2 * len(KINDS), device=device),
        torch.Generator(device),
        NoiseSchedule(schedule.abar.to(device)),
        course.batch,
    )


def train(run: Training, ears: Ears) -> bool:
    """Until the course is run (True) or `ears.stopped` (False), both saved. CollapseError where the loss stays not
    finite."""
    state, course = run.state, run.course
    with patience(run, ears) as waited:
        last_u = run.share
        told, checkpointed, frames = waited(), state.seconds, state.frames
        first, first_u = told, last_u
        while (u := run.share) < 1 and not ears.stopped():
            run.pool.take(4)
            try:
                _step(run, u, u - last_u if course.steps is None else 1 / course.steps)
            except torch.OutOfMemoryError:
                _smaller_batch(run, ears)
                continue
            last_u = u
            now = waited()
            if now - told > REPORT or (frames == 0 and now - first > 3):
                run.speed = (state.frames - frames) / (now - told)
                _report(run, ears, (now - first) * (1 - run.share) / max(run.share - first_u, 1e-9))
                told, frames = now, state.frames
            due = math.floor(run.share * course.checks) > math.floor(u * course.checks)
            if due and run.share < 1:
                check(run, ears)
                if math.floor(run.share * course.checks) % 2 == 0:
                    ears.export(run)
            if state.seconds - checkpointed > course.checkpoint_seconds:
                save(run)
                checkpointed = state.seconds
    read_sums(run)
    save(run)
    if finished := run.share >= 1:
        check(run, ears)
    ears.export(run)
    return finished


@contextmanager
def patience(run: Training, ears: Ears) -> Iterator[Callable[[], float]]:
    """Yields a function that brings `state.seconds` up to date and returns it; while the pause file exists it saves,
    waits, and counts nothing."""
    file = run.folder / PAUSE
    last = time.perf_counter()

    def waited() -> float:
        nonlocal last
        now = time.perf_counter()
        run.state.seconds += now - last
        if file.exists():
            save(run)
            ears.say(f"Paused, and saved: remove {file} to go on.")
            while file.exists() and not ears.stopped():
                time.sleep(0.2)
            ears.say("Going on.")
            now = time.perf_counter()
        last = now
        return run.state.seconds

    yield waited


def _step(run: Training, u: float, passed: float) -> None:
    state, course, device = run.state, run.course, run.course.device
    small = u < course.small_share
    draw = run.drawer.draw(np.random.default_rng((course.seed, 3, state.step)), run.batch * (2 if small else 1))
    run.generator.manual_seed(course.seed * 1_000_003 + state.step)
    batch = on_device(draw, run.pool, run.texts, small, run.generator)
    noise = torch.randn(batch.x.shape, generator=run.generator, device=device)
    for group in state.optimizer.param_groups:
        group["lr"] = course.rate(u)
    with tuned(device):
        loss = x0_loss(state.net, batch, noise, run.schedule, run.config)
        loss.backward()
    weights: list[Tensor] = list(state.net.parameters())
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
    bad = 1.0 - (norm.isfinite() & loss.detach().isfinite()).float()
    state.optimizer.found_inf = bad  # pyright: ignore[reportAttributeAccessIssue] # the fused step then changes nothing
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.frames += len(batch.x)
    with torch.no_grad():
        decay = course.ema_decay(state.step, passed)
        averages: list[Tensor] = list(run.shadow.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        row = (run.sums[2] + bad) * bad
        value = torch.where(bad > 0, 0.0, loss.detach())
        kinds = run.sums[4:].view(2, -1).clone()
        kinds[:, KINDS.index(draw.kind)] += torch.stack([bad, torch.ones_like(bad)])
        four = torch.stack([run.sums[0] + value, run.sums[1] + 1 - bad, row, torch.maximum(run.sums[3], row)])
        run.sums = torch.cat([four, kinds.flatten()])


def _smaller_batch(run: Training, ears: Ears) -> None:
    """Half of the frames a step. OutOfMemoryError where that was done too often."""
    if run.batch * 2**HALVINGS <= run.course.batch or run.batch < 8:
        raise torch.OutOfMemoryError("CUDA out of memory")
    run.batch //= 2
    run.state.optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    ears.say(f"Out of the GPU's memory: {run.batch} frames a step from here.")


def read_sums(run: Training) -> None:
    """Bring what the device has counted here. CollapseError where nothing has been learned for a while."""
    total, steps, _, most, *kinds = run.sums.tolist()
    if steps > 0:
        run.loss = total / steps
    run.skipped = [int(k) for k in kinds[: len(KINDS)]]
    run.sums[:2] *= 0.1  # the mean forgets
    if most >= MOST_BAD:
        raise CollapseError(
            f"{MOST_BAD} steps in a row had a loss or a gradient that is not finite, up to step {run.state.step}; "
            "start again with a lower --learning-rate, in a new --out if that is not enough."
        )


def _report(run: Training, ears: Ears, left: float) -> None:
    read_sums(run)
    s = run.state
    minutes = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
    parts = [f"{100 * run.share:.1f} %", f"step {s.step}", f"{s.frames} frames", f"{run.speed:.0f} frames/s"]
    parts += [f"loss {run.loss:.4f}", f"about {minutes} left"]
    if any(run.skipped):
        steps = run.sums[4 + len(KINDS) :].tolist()
        some = [f"{b} of {n:.0f} {k}" for k, b, n in zip(KINDS, run.skipped, steps, strict=True) if b]
        parts.append(f"not finite, and skipped: {', '.join(some)}")
    ears.say(" · ".join(parts))


def check(run: Training, ears: Ears) -> None:
    """Measure, say and log the errors."""
    read_sums(run)
    run.errors = ears.check(run)
    with (run.folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(run.entry()) + "\n")


def save(run: Training) -> None:
    save_checkpoint(run.state, run.folder / CHECKPOINT)
