"""What makes a GPU's steps faster, and right, without changing what is computed, to its rounding.

Measured on an H100, 780 frames a step of (128, 192, 256): 65 ms against 72 with weights channels last.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from guidance.priors.unet import UNet2DConditionModel

ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def quickened(net: UNet2DConditionModel, device: torch.device, bf16: bool) -> None:
    """On a GPU: convolutions channels last, normalisations of bf16 in bf16."""
    if device.type != "cuda":
        return
    torch.nn.Module.to(net, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if bf16:
        bf16_norms(net)


@contextmanager
def tuned(device: torch.device) -> Iterator[None]:
    """On a GPU: convolutions by the kernel that was fastest for their shape, and attention by any but cuDNN's, whose
    gradients are NaN on an H100 (docs/prior.md, "Steps that were not finite")."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=True), sdpa_kernel(ATTENTION):
        yield


def bf16_norms(net: torch.nn.Module) -> None:
    """Normalisations of bf16 inputs give bf16; their sums are float32 all the same. Autocast's own way, float32 out
    and in everything after it until the next product, moves twice the bytes."""

    def group(self: Any, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16:
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)

    def layer(self: Any, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)

    for m in net.modules():
        if isinstance(m, torch.nn.GroupNorm):
            m.forward = types.MethodType(group, m)
        elif isinstance(m, torch.nn.LayerNorm) and m.elementwise_affine:
            m.forward = types.MethodType(layer, m)
