"""Rasterizer contexts: the caller's explicit choice of who decides visibility. Nothing switches by itself."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from renderers.raster import cpu, twin
from renderers.raster.screen import Screen


class RasterizeContext(Protocol):
    """Decides which triangle each pixel sees; everything differentiable is common to all contexts."""

    def visible(self, screen: Screen, tri: Tensor) -> Tensor:
        """(B, H, W) int32 triangle + 1, 0 where empty, for snapped vertices and `tri` (F, 3) int32."""
        ...


class RasterizeCpuContext:
    """The numba kernel, on CPU tensors only."""

    def visible(self, screen: Screen, tri: Tensor) -> Tensor:
        if screen.xy.device.type != "cpu":
            raise ValueError(
                f"RasterizeCpuContext takes CPU tensors, got {screen.xy.device}: "
                "move them or use RasterizeTorchContext."
            )
        return cpu.visible(screen, tri)


class RasterizeTorchContext:
    """Plain torch on any device: the reference, slower than the kernel."""

    def visible(self, screen: Screen, tri: Tensor) -> Tensor:
        return twin.visible(screen, tri)


def make_context(device: torch.device | str) -> RasterizeContext:
    """The numba kernel for the CPU, plain torch for every other device."""
    return RasterizeCpuContext() if torch.device(device).type == "cpu" else RasterizeTorchContext()
