"""`polymode doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass

import torch

from app.models import known_models
from guidance.errors import MissingWeights
from guidance.priors.embedded_weights import load_network
from guidance.priors.text import TextEncoder


@dataclass(frozen=True)
class Finding:
    """One line of the report. `ok` None is information; False needs the advice in `text`."""

    ok: bool | None
    text: str


def compile_everything() -> None:
    """Compile the CPU kernels into numba's cache, so that no run waits for it."""
    from app.export import preview_cpu
    from renderers import snapshot, volume_cpu
    from renderers.raster import cpu

    snapshot.compile_kernels()
    volume_cpu.compile_kernels()
    cpu.compile_kernels()
    preview_cpu.compile_kernels()


def examine() -> list[Finding]:
    """Check Python, packages, threads, devices, kernels, text encoder, priors and the video encoder."""
    found = [
        Finding(sys.version_info >= (3, 11), f"Python {platform.python_version()} (3.11 or newer is needed)"),
        Finding(None, f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"),
    ]
    if torch.cuda.is_available():
        found.append(Finding(None, f"GPU: {torch.cuda.get_device_name()} (used with --device auto or cuda)"))
    else:
        found.append(Finding(None, "No GPU: everything runs on the CPU"))
    for package in ("diffusers", "transformers", "numba", "scikit-image", "xatlas", "trimesh", "imageio-ffmpeg"):
        try:
            found.append(Finding(True, f"{package} {importlib.metadata.version(package)}"))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(False, f"{package} is missing; run `pip install {package}`"))
    for package in ("nerfacc", "nvdiffrast", "kaolin"):
        here = importlib.util.find_spec(package) is not None
        found.append(
            Finding(
                None,
                f"{package}: {'installed, not used by this version' if here else 'absent (not used by this version)'}",
            )
        )
    try:
        compile_everything()
        found.append(Finding(True, "CPU kernels compile and run"))
    except Exception as e:
        found.append(Finding(False, f"CPU kernels do not compile ({e}); reinstall numba"))
    try:
        TextEncoder()
        found.append(Finding(True, "Text encoder: MiniLM-L6, checksum right"))
    except (MissingWeights, OSError) as e:
        found.append(Finding(False, str(e)))
    try:
        load_network(known_models()[0].folder, "cpu")
        found.append(Finding(True, "Embedded prior: weights complete, checksums right"))
    except (MissingWeights, OSError) as e:
        found.append(Finding(False, str(e)))
    try:
        import imageio_ffmpeg

        found.append(Finding(True, f"Video encoder: ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"))
    except (ImportError, RuntimeError) as e:
        found.append(Finding(False, f"No video encoder ({e}); reinstall imageio-ffmpeg"))
    return found
