"""Ray marching on the CPU: the fused kernels against plain torch, with and without empty-space skipping, as ratios.

    python -m benchmarks.volume [--views 4] [--pixels 64] [--repeats 5]

The object is a soft-edged ball that fills about a quarter of the picture. Times are medians in ms
over `repeats`, after a warm-up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from renderers.cameras import orbit
from renderers.fields import GridField, smoothness, vertex_positions
from renderers.volume import Backend, Occupancy, render_field, update_occupancy
from renderers.volume_cpu import compile_kernels


def ball(resolution: int, radius: float = 0.53, sharpness: float = 10.0) -> GridField:
    """sigma rises by 10 * `sharpness` a world unit inwards; radius 0.53 covers nearly a quarter of the picture."""
    positions = vertex_positions(resolution)
    density = sharpness * (radius - positions.norm(dim=-1))
    return GridField(density.requires_grad_(), positions.contiguous().requires_grad_())


def median_ms(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def measure(
    field: GridField,
    views: int,
    pixels: int,
    samples: int,
    occupancy: Occupancy | None,
    backend: Backend,
    repeats: int,
) -> tuple[float, float]:
    """Medians (forward without a graph, forward and backward) in ms."""
    cameras = orbit(views, elevation=0.3, start=0.2)
    jitter = torch.rand(views, pixels, pixels, generator=torch.Generator().manual_seed(0))

    def forward() -> None:
        with torch.no_grad():
            render_field(field, cameras, pixels, samples, jitter, occupancy, backend).frames()

    def both() -> None:
        field.raw_density.grad = field.raw_color.grad = None
        render_field(field, cameras, pixels, samples, jitter, occupancy, backend).frames().square().mean().backward()

    return median_ms(forward, repeats), median_ms(both, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ray marching: numba against torch, in ms and as ratios.")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    compile_kernels()
    size = f"{options.views} views of {options.pixels} x {options.pixels}, {torch.get_num_threads()} threads"
    print(f"{size}; ms, forward / forward+backward")
    print("grid samples skip cells alpha           numba              torch   torch/numba")
    for resolution in (48, 64):
        field = ball(resolution)
        for samples in (48, 64):
            for skip in (False, True):
                occupancy = update_occupancy(field) if skip else None
                common = (options.views, options.pixels, samples, occupancy)
                fast = measure(field, *common, "numba", options.repeats)
                slow = measure(field, *common, "torch", max(1, options.repeats // 2))
                with torch.no_grad():
                    alpha = float(render_field(field, orbit(1), options.pixels, samples).alpha.mean())
                cells = occupancy.fraction() if occupancy else 1.0
                print(
                    f"{resolution:>4} {samples:>7} {'on' if skip else 'off':>4} {cells:>5.2f} {alpha:>5.2f} "
                    f"{fast[0]:>7.1f} /{fast[1]:>6.1f} {slow[0]:>9.1f} /{slow[1]:>7.1f} "
                    f"{slow[0] / fast[0]:>5.1f} /{slow[1] / fast[1]:>5.1f}"
                )
        print(f"      update_occupancy {median_ms(lambda field=field: update_occupancy(field), 5):.1f} ms,", end=" ")
        extra = median_ms(
            lambda field=field: (smoothness(field.raw_density) + smoothness(field.raw_color)).backward(), 5
        )
        print(f"smoothness of density and colour with gradient {extra:.1f} ms")


if __name__ == "__main__":
    main()
