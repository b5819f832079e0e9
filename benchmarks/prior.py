"""Milliseconds a frame-forward of the embedded prior, in the calls that runs make, beside a fixed matrix product as a
yardstick.

    python -m benchmarks.prior [--prior embedded] [--repeats 20]

A draft run's metadata.json has the same number (`ms_per_frame_forward`); on an idle machine they agree within 10 %.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import torch
import tyro

from app.models import load_prior
from guidance.prior import Views


@dataclass(frozen=True)
class Arguments:
    """Time the prior."""

    prior: str = "embedded"
    repeats: int = 20
    device: str = "cpu"


def yardstick(device: torch.device) -> float:
    """Milliseconds of a 1024^3 float32 product: what this machine gives this process now."""
    a = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)).to(device)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    arguments = tyro.cli(Arguments)
    device = torch.device(arguments.device)
    prior = load_prior(arguments.prior, device)
    g = torch.Generator().manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {device}")
    print("sets  frames a call  ms a frame-forward  in 1024^3 products")
    for sets in (1, 2, 4):
        azimuth = torch.arange(4 * sets) * (math.pi / 2)
        views = Views(azimuth.to(device), torch.zeros_like(azimuth).to(device), 4)
        conditions = [prior.condition("a red mushroom", views), prior.condition("", views)]
        z = torch.randn(4 * sets, *prior.frame_shape, generator=g).to(device)
        t = torch.full((4 * sets,), 500, device=device)
        prior.predict(z, t, conditions)
        times = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            prior.predict(z, t, conditions)
            times.append(time.perf_counter() - start)
        ms = 1e3 * statistics.median(times) / (8 * sets)
        print(f"{sets:4d}  {8 * sets:13d}  {ms:18.2f}  {ms / yardstick(device):18.3f}")


if __name__ == "__main__":
    main()
