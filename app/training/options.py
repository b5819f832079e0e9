"""Flags of `polymode train`: apart from its body, so that other commands import nothing that trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from app.choices import one_of


@dataclass(frozen=True)
class Mix:
    """Which sets a training is made of. The first five are shares of the steps, each of one kind."""

    canonical: float = 0.35
    """Four views of an object from azimuths 0, 90, 180, 270 at elevation 15 degrees, as the product samples."""
    random: float = 0.30
    """Four views 90 degrees apart, from any azimuth, at elevations of -10 to 60 degrees."""
    picture: float = 0.20
    """Either of these, with one photograph of the object or two."""
    single: float = 0.10
    """Single views with their camera."""
    blind: float = 0.05
    """Single views without."""
    fifth: float = 0.4
    """Share of the sets of four that have a fifth view, from above."""
    facing: float = 0.4
    """Share of the picture sets whose first photograph shows one of the views."""
    several: float = 0.3
    """Share of the picture sets with two photographs."""
    recolor: float = 0.3
    """Share of the objects in another colour, with a caption that says so."""
    mirror: float = 0.5
    """Share of the objects reflected left to right."""
    no_text: float = 0.1
    """Share of the objects whose caption is dropped."""
    no_text_picture: float = 0.5
    """The same of the picture sets."""
    separate_times: float = 0.05
    """Share of the steps with a noise level of its own for alpha and normals."""
    skew: float = 0.7
    """Time steps are 1000 u^skew, u uniform."""
    max_weight: float = 5.0
    """Bound of the loss weight 1/s^2."""


@dataclass(frozen=True)
class Train:
    """Train a prior of your own on a folder of meshes with captions. `--prior FOLDER` then uses it. Started again, the
    same command goes on from its checkpoint."""

    data: Annotated[Path, arg(metavar="FOLDER")]
    """Meshes (GLB, glTF, OBJ, PLY, STL, ...) and captions.csv, a line each: file,caption[,caption ...]. Without one,
    files are captions: red_mushroom-02.glb is "red mushroom"."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Where weights, checkpoint, log and sample sheets go. An empty file `pause` in it pauses the training."""
    init: Annotated[str | None, arg(metavar="PRIOR")] = None
    """What to start from: `embedded`, another prior's name, or a folder of weights. Left out: from nothing."""
    device: Annotated[str, one_of("auto", "cpu", "cuda")] = "auto"
    """auto: a GPU where there is one."""
    minutes: float = 30.0
    """Minutes of training in all, pauses left out. The learning rate falls over them."""
    steps: int | None = None
    """Train for so many steps instead of minutes. On a CPU the same command then gives the same weights."""
    channels: tuple[int, ...] = ()
    """Widths of the network, multiples of 16. Left out: those of --init, or 64 128 192; on a GPU 128 192 256."""
    batch: int | None = None
    """Frames a step. Left out: 24, on a GPU 780."""
    learning_rate: float | None = None
    """The largest. Left out: 1e-3, with --init 3e-4."""
    small_share: float | None = None
    """Share of the training that sees frames of half the size first. Left out: 0.15, with --init 0."""
    random_sets: int | None = None
    """Random orbits an object that are rendered. Left out: up to 32, as many as fit into memory."""
    recolored_sets: int | None = None
    """Recoloured sets an object. Left out: up to 12, as many as fit into memory."""
    refresh: bool | None = None
    """Go on rendering other random orbits in place of the old. Left out: on a GPU, without --steps."""
    workers: int | None = None
    """Processes that render. Left out: all cores but two, at least one."""
    threads: int | None = None
    """Threads of the training itself. Left out: as torch does."""
    precision: Annotated[str, one_of("bfloat16", "float32")] = "bfloat16"
    """Of the network's products. float32 is faster on processors that have no bfloat16."""
    checks: int = 8
    """How often the error is measured over the training. Every other time weights and a sheet of samples are
    written."""
    sheet: int = 12
    """Prompts on a sheet of samples; 0: no sheets."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints. What came after the last one is lost if the process is killed."""
    seed: int = 0
    """Of the new network, and of everything that is drawn."""
    mix: Mix = field(default_factory=Mix)
    json: bool = False
    """Print the result, or the error, as one JSON object on stdout."""
