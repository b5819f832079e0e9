"""The body of `polymode train`: a folder of meshes with captions becomes a prior."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from app.errors import Cancelled, MissingError, UsageError, disk_errors
from app.models import require, weights_folder
from app.run.folder import atomic
from app.run.signals import stop_signals
from app.run.work import choose_device
from app.text import quoted, shown, to_json
from app.training.batches import Drawer
from app.training.course import DEFAULT_CHANNELS, SIZE, Course, checked, course, rounds
from app.training.data import save_arrays
from app.training.folder import Objects, read_objects
from app.training.measure import Checks, sheet, sheet_prompts
from app.training.options import Train
from app.training.rendering import Pool, rendering
from app.training.sets import Sets
from app.training.texts import Texts
from app.training.trainer import CHECKPOINT, PAUSE, Ears, Training, begin, train
from guidance.priors.embedded import EmbeddedPrior
from guidance.priors.embedded_files import read_config
from guidance.priors.embedded_weights import export_weights
from guidance.priors.text import TextEncoder
from renderers.snapshot import compile_kernels

TRAINING, SHEET, ARRAYS, HALF = "training.json", "sheet.png", ".objects", ".weights-"
GOES_ON = "start the same command again"
EARLY_SETS = 0.1  # of a timed training: it does not wait for more of its random orbits


@dataclass(frozen=True)
class Place:
    """Where a training stands before it begins: its network's channels, and the weights it starts from."""

    channels: tuple[int, ...]
    init: Path | None


def run_train(a: Train) -> int:
    """The command's body. Returns the exit code."""
    a = checked(a)
    device = choose_device(a.device)
    place = prepare(a, device)
    if a.threads:
        torch.set_num_threads(a.threads)
    objects = read_objects(a.data, say)
    sets = planned(a, objects, device)
    how = course(a, device, place.channels)
    with disk_errors(a.out, GOES_ON), alone_in(a.out):
        for left in a.out.glob(f"{HALF}*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        save_arrays(objects.pack, a.out / ARRAYS)
        try:
            run, finished = trained(a, how, place, objects, sets)
        finally:
            shutil.rmtree(a.out / ARRAYS, ignore_errors=True)
    if not finished:
        raise Cancelled(
            f"Stopped at step {run.state.step}, {100 * run.share:.0f} % of the training, and saved; the same command "
            f"goes on, and --prior {quoted(a.out)} uses what is there."
        )
    tell(a, run, objects)
    return 0


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """UsageError where another process trains in `folder`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as e:
        raise UsageError(f"Another process trains in {folder}; wait for it, or give a new --out.") from e
    finally:
        os.close(handle)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def prepare(a: Train, device: torch.device) -> Place:
    """Refuse what cannot be trained before anything is read; make the folder. UsageError, MissingError."""
    init = None
    channels = a.channels or DEFAULT_CHANNELS[device.type]
    if a.init is not None:
        require(a.init)
        init = weights_folder(a.init)
        config = read_config(init)
        if config["size"] != SIZE:
            raise UsageError(f"--init {shown(a.init)} is a prior of {config['size']} pixels, and {SIZE} are trained.")
        if a.channels and tuple(config["channels"]) != a.channels:
            raise UsageError(
                f"--init {shown(a.init)} has the channels {words(config['channels'])}, not {words(a.channels)}; leave "
                "--channels out, or --init."
            )
        channels = tuple(config["channels"])
    if not a.data.is_dir():
        what = "is a file" if a.data.exists() else "does not exist"
        raise UsageError(f"{shown(str(a.data), 200)} {what}; give --data a folder of meshes.")
    if a.out.exists() and not a.out.is_dir():
        raise UsageError(f"{a.out} is a file; give --out a folder.")
    known = a.out / TRAINING
    if known.is_file():
        before = read_training(known)
        if a.channels and a.channels != before:
            raise UsageError(
                f"{a.out} holds a training of the channels {words(before)}, not {words(a.channels)}; give a new --out."
            )
        channels = before
        refuse_finished(a)
    elif a.out.is_dir() and any(p.name not in (PAUSE, ARRAYS) for p in a.out.iterdir()):
        raise UsageError(f"{a.out} is not empty, and holds no training; give a new --out.")
    try:
        a.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"The folder {a.out} cannot be made ({e.strerror}); choose another --out.") from e
    with disk_errors(a.out, GOES_ON), atomic(known) as path:
        path.write_text(to_json({"channels": channels, "data": str(a.data), "init": a.init}), encoding="utf-8")
    return Place(channels, init)


def words(channels: tuple[int, ...] | list[int]) -> str:
    return " ".join(map(str, channels))


def read_training(path: Path) -> tuple[int, ...]:
    """The channels of the training that a folder holds."""
    try:
        return tuple(int(c) for c in json.loads(path.read_text(encoding="utf-8"))["channels"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise MissingError(f"{path} is damaged; restore it, or give a new --out.") from e


def refuse_finished(a: Train) -> None:
    """UsageError where the checkpoint in `out` is at the end of what is asked for, MissingError for a damaged one."""
    path = a.out / CHECKPOINT
    if not path.is_file():
        return
    try:
        with safe_open(path, "pt") as file:
            numbers = file.metadata()
        step, seconds = int(numbers["step"]), float(numbers["seconds"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
        raise MissingError(f"{path} is damaged; delete it to begin anew, or give a new --out.") from e
    if (step >= a.steps) if a.steps is not None else (seconds >= 60 * a.minutes):
        done, more = (
            (f"{step} steps", "--steps") if a.steps is not None else (f"{seconds / 60:.1f} minutes", "--minutes")
        )
        raise UsageError(f"The training in {a.out} is finished after {done}; give more {more}, or a new --out.")


def planned(a: Train, objects: Objects, device: torch.device) -> Sets:
    """The sets of the objects, and what to tell of both."""
    rows, training = objects.pack.rows, objects.training
    recolorable = len(Sets(rows, training, 0, 0, a.seed).recolorable)
    random, recolored = rounds(a, len(training), recolorable, device)
    held = f"{len(objects.held_out)} of other names are held out to measure its error"
    say(
        f"{len(training)} objects to train on; "
        + (held if objects.held_out else "too few to hold any out, so the error is that of objects it trains on")
        + f". {1 + random + recolored} sets of five views each."
    )
    return Sets(rows, training, random, recolored, a.seed)


def trained(a: Train, how: Course, place: Place, objects: Objects, sets: Sets) -> tuple[Training, bool]:
    """Train; the training, and whether it was run to its end."""
    compile_kernels()
    encoder = TextEncoder(how.device)
    texts = Texts(encoder, how.device)
    with rendering(sets, a.out / ARRAYS, SIZE, how.device, how.workers) as pool, stop_signals() as stopped:
        drawer = Drawer(pool, texts, how.mix)
        if how.device.type == "cuda":
            texts.encode_all()
        run = begin(how, a.out, pool, drawer, texts, place.init, say)
        checks = Checks(objects.pack, objects.training, objects.held_out, texts)
        prompts = sheet_prompts(sets.rows, objects.training, how.sheet) if how.sheet else []

        def measure(run: Training) -> dict[str, float]:
            errors = checks.errors(run.shadow, run.schedule, how.device, how.bf16)
            say(
                f"step {run.state.step} · error of {'held-out' if objects.held_out else 'its own'} objects "
                f"{errors['x0']:.4f}, of its own {errors['seen']:.4f}, with a picture {errors['pictured']:.4f}"
            )
            return errors

        def export(run: Training) -> None:
            write_weights(run)
            if prompts:
                sheet(EmbeddedPrior(run.shadow, encoder, how.device, config={"size": SIZE}), prompts, a.out / SHEET)

        frames_there(pool, how, stopped)
        finished = train(run, Ears(say, stopped, measure, export)) if not stopped() else False
    return run, finished


def frames_there(pool: Pool, how: Course, stopped: Callable[[], bool]) -> None:
    """Wait for the frames that a training begins with: all where it is to be repeatable, else canonical ones and a
    few others."""
    if how.refresh:
        pool.refresh()
    total, told = pool.sets.number, 0.0
    enough = 1.0 if how.steps is not None else EARLY_SETS
    while not stopped():
        done = pool.views / 5 / total
        if done >= 1 or (pool.canonical and pool.random and done >= enough):
            return
        if done - told >= 0.25:
            told = done
            say(f"{100 * done:.0f} % of {5 * total} views rendered")
        pool.take(1000, wait=0.2)


def write_weights(run: Training) -> None:
    """The EMA weights as a prior's folder, whole at every moment but the renames'."""
    with tempfile.TemporaryDirectory(dir=run.folder, prefix=HALF) as temporary:
        export_weights(run.state.ema, Path(temporary), run.course.channels, run.entry(), SIZE)
        new = sorted(Path(temporary).iterdir(), key=lambda p: p.name == "config.json")
        for path in new:
            path.replace(run.folder / path.name)
        for stale in set(run.folder.glob("prior-*-of-*.safetensors")) - {run.folder / p.name for p in new}:
            stale.unlink()


def tell(a: Train, run: Training, objects: Objects) -> None:
    """What came out, on stdout."""
    s, left_out = run.state, objects.left_out
    example = objects.pack.rows[objects.training[0]]["captions"][0]
    if a.json:
        result: dict[str, Any] = {
            "status": "done",
            "folder": str(a.out),
            "training": run.entry(),
            "left_out": left_out,
        }
        sys.stdout.write(to_json(result, encoding=sys.stdout.encoding) + "\n")
        return
    sys.stdout.write(
        f"{a.out}  ({s.step} steps, {s.frames} frames, {s.seconds / 60:.1f} minutes, error {run.errors['x0']:.4f})\n"
    )
    if left_out:
        sys.stdout.write(f"{len(left_out)} left out; the lines above name them.\n")
    sys.stdout.write(f'polymode generate "{shown(example)}" --method direct --prior {quoted(a.out)}\n')
