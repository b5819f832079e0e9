"""`polymode doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from app.models import SHIPPED, Model, known_models
from app.startup import loading
from guidance.errors import MissingWeights
from guidance.priors.embedded_files import read_shards

PACKAGES = ("torch", "diffusers", "tokenizers", "numba", "scikit-image", "xatlas", "trimesh", "imageio-ffmpeg")
ABSENT = ("nerfacc", "nvdiffrast", "kaolin")


@dataclass(frozen=True)
class Finding:
    """One line of the report. `ok` None is information; False needs the advice in `text`."""

    ok: bool | None
    text: str


def compile_everything() -> None:
    """Compile the CPU kernels into numba's cache, so that no run waits for it."""
    from app.export import lowpoly, preview_cpu
    from renderers import decimate, mesh_cpu, parts, snapshot, volume_cpu
    from renderers.raster import cpu, texture_cpu

    snapshot.compile_kernels()
    decimate.compile_kernels()
    parts.compile_kernels()
    volume_cpu.compile_kernels()
    cpu.compile_kernels()
    texture_cpu.compile_kernels()
    mesh_cpu.compile_kernels()
    preview_cpu.compile_kernels()
    lowpoly.compile_kernels()


def examine() -> Iterator[Finding]:
    """Check Python, packages, video encoder, priors, then, with torch loaded, devices, text encoder and kernels. Each
    finding is there as soon as it is known."""
    yield Finding(sys.version_info >= (3, 11), f"Python {platform.python_version()} (3.11 or newer is needed)")
    for package in PACKAGES:
        try:
            yield Finding(True, f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(False, f"{package} is missing; run `pip install {package}`")
    for package in ABSENT:
        here = importlib.util.find_spec(package) is not None
        said = "installed, not used by this version" if here else "absent (not used by this version)"
        yield Finding(None, f"{package}: {said}")
    yield video_encoder()
    for model in known_models():
        if model.alias in SHIPPED:
            yield weights(model)
    try:
        yield from with_torch()
    except ImportError as e:
        yield Finding(False, f"torch does not load ({e}); reinstall it")


def video_encoder() -> Finding:
    """Whether ffmpeg is there."""
    try:
        import imageio_ffmpeg

        return Finding(True, f"Video encoder: ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}")
    except (ImportError, RuntimeError) as e:
        return Finding(False, f"No video encoder ({e}); reinstall imageio-ffmpeg")


def weights(model: Model) -> Finding:
    """Whether a prior's files are whole."""
    try:
        read_shards(model.folder)
    except (MissingWeights, OSError) as e:
        return Finding(False, str(e))
    return Finding(True, f"Prior {model.alias}: weights complete, checksums right")


def with_torch() -> Iterator[Finding]:
    """What only a loaded torch knows."""
    with loading():
        import torch

    yield Finding(None, f"{torch.get_num_threads()} threads of {os.cpu_count()} cores")
    if torch.cuda.is_available():
        yield Finding(None, f"GPU: {torch.cuda.get_device_name()} (used with --device auto or cuda)")
    else:
        yield Finding(None, "No GPU: everything runs on the CPU")
    try:
        from guidance.priors.text import TextEncoder

        TextEncoder()
        yield Finding(True, "Text encoder: MiniLM-L6, checksum right")
    except (MissingWeights, OSError) as e:
        yield Finding(False, str(e))
    try:
        from guidance.priors.embedded_weights import load_network

        load_network(known_models()[0].folder, "cpu")
        yield Finding(True, "The prior's network takes its weights")
    except (MissingWeights, OSError) as e:
        yield Finding(False, str(e))
    try:
        with loading():
            compile_everything()
        yield Finding(True, "CPU kernels compile and run")
    except Exception as e:
        yield Finding(False, f"CPU kernels do not compile ({e}); reinstall numba")
