"""The embedded prior's network: diffusers' UNet2DConditionModel over frames, with self-attention that spans the
frames of an object.

Frames are 7 x S x S in [-1, 1] (S = 64, or 32 in the first part of training), pixel-unshuffled by 4 to 112 x S/4 x
S/4. The network predicts x0. Each frame carries its own time step, and its own camera vector as a projection class
embedding. MVDream's recipe (2308.16512) at a thousandth of its size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from guidance.priors.text import WIDTH, TextEmbedding

CHANNELS = 7
PATCH = 4
CAMERA_WIDTH = 16


class FrameAttention:
    """Attention processor. Self-attention joins the tokens of `frames` neighbouring batch entries (one object);
    cross-attention is each frame's own."""

    def __call__(
        self,
        attn: Any,  # diffusers' Attention, whose optional members are always set here
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        frames: int = 1,
        **_: Any,
    ) -> Tensor:
        batch, tokens, width = hidden_states.shape
        if encoder_hidden_states is None:
            hidden_states = hidden_states.reshape(batch // frames, frames * tokens, width)
            source = hidden_states
        else:
            source = encoder_hidden_states

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        # diffusers hands the mask as an additive bias (batch, 1, keys); it only ever belongs to the text
        bias = attention_mask[:, None].to(hidden_states.dtype) if attention_mask is not None else None
        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(source)), heads(attn.to_v(source))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))
        return out.reshape(batch, tokens, width)


def build_network(channels: tuple[int, ...] = (64, 128, 192), sample_size: int = 16) -> UNet2DConditionModel:
    """The network with random weights. 11.6 M parameters at the default channels. No attention at the finest level:
    joint attention over 4 x 256 tokens there costs a third of a forward on a CPU."""
    levels = len(channels)
    net = UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=CHANNELS * PATCH**2,
        out_channels=CHANNELS * PATCH**2,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        cross_attention_dim=WIDTH,
        attention_head_dim=tuple(max(1, c // 32) for c in channels),  # pyright: ignore[reportArgumentType] # diffusers' name for the number of heads
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CAMERA_WIDTH,
        norm_num_groups=16,
    )
    net.set_attn_processor(FrameAttention())  # pyright: ignore[reportArgumentType]
    return net


def to(net: UNet2DConditionModel, device: torch.device | str) -> UNet2DConditionModel:
    """`net` on `device`. (diffusers' own `to` is a decorated function that type checkers cannot read.)"""
    torch.nn.Module.to(net, torch.device(device))
    return net


def camera_vector(
    azimuth: Tensor | None,
    elevation: Tensor | None,
    count: int,
    device: torch.device | str = "cpu",
    picture: Tensor | None = None,
    relative: bool = False,
) -> Tensor:
    """(count, 16) camera vectors; `azimuth`, `elevation` in radians, (count,) or None for unknown.

    0 azimuth known · 1-6 sin, cos of azimuth, 2 azimuth, 4 azimuth · 7 elevation known · 8-10 sin, cos, 3 elevation ·
    11 this frame is a picture (t = 0 condition) · 12 azimuth is relative to the picture · 13-15 zero.
    """
    v = torch.zeros(count, CAMERA_WIDTH, device=device)
    if azimuth is not None:
        v[:, 0] = 1
        for i, k in enumerate((1, 2, 4)):
            v[:, 1 + 2 * i] = (k * azimuth).sin()
            v[:, 2 + 2 * i] = (k * azimuth).cos()
    if elevation is not None:
        v[:, 7] = 1
        v[:, 8] = elevation.sin()
        v[:, 9] = elevation.cos()
        v[:, 10] = 3 * elevation
    if picture is not None:
        v[:, 11] = picture.to(device, torch.float32)
    if relative:
        v[:, 12] = 1
    return v


def predict_x0(
    net: UNet2DConditionModel, z: Tensor, t: Tensor, text: TextEmbedding, camera: Tensor, frames: int
) -> Tensor:
    """x0 (B, 7, S, S) from noisy frames z (B, 7, S, S) in [-1, 1] scale, t (B,), text (B, L, 384), camera (B, 16).
    `frames` neighbours are one object."""
    out = net(
        F.pixel_unshuffle(z, PATCH),
        t,
        text.tokens,
        class_labels=camera,
        encoder_attention_mask=text.mask,
        cross_attention_kwargs={"frames": frames},
        return_dict=False,
    )[0]
    return F.pixel_shuffle(out.float(), PATCH)
