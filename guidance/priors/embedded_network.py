"""The embedded prior's network: diffusers' UNet2DConditionModel over frames, with self-attention that spans the
frames of an object.

Frames are 7 x S x S in [-1, 1] (S = 64, or 32 in the first part of training), pixel-unshuffled by 4 to 112 x S/4 x
S/4. The network predicts x0. Each frame carries its own time step, and its own condition vector as a projection class
embedding: camera, geometry's own time step where it has one, mean of the text's tokens. MVDream's recipe (2308.16512)
at a thousandth of its size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.priors.embedded_files import CAMERA_WIDTH
from guidance.priors.refinement import Refinement
from guidance.priors.text import WIDTH, TextEmbedding
from guidance.priors.unet import UNet2DConditionModel, own_diffusers

CHANNELS = 7
PATCH = 4
TIME_WIDTH = 16
IS_PICTURE = 11  # of the camera vector
CONDITION_WIDTH = CAMERA_WIDTH + TIME_WIDTH + WIDTH
WIDENED = ("class_embedding.linear_1.weight", "conv_in.weight")  # since the first weights


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
        if q.requires_grad and q.device.type == "cpu":
            out = softmax_attention(
                q, k, v, bias
            )  # torch's fused backward on a CPU is slower: 30 % of a step at 64 px
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))
        return out.reshape(batch, tokens, width)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(width) + bias) v, written out."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1).to(v.dtype) @ v


def build_network(
    channels: tuple[int, ...] = (64, 128, 192),
    sample_size: int = 16,
    condition_width: int = CONDITION_WIDTH,
    refined: bool = True,
    pictured: bool = True,
) -> UNet2DConditionModel:
    """The network with random weights. 11.9 M parameters at the default channels. A `condition_width` of 16 (the first
    weights) knows the camera alone; without `refined` there is no refinement, without `pictured` no picture beside
    every frame. No attention at the finest level:
    joint attention over 4 x 256 tokens there costs a third of a forward on a CPU."""
    levels = len(channels)
    with own_diffusers():
        net = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=CHANNELS * PATCH**2 * (2 if pictured else 1),
            out_channels=CHANNELS * PATCH**2,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
            mid_block_type="UNetMidBlock2DCrossAttn",
            up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
            cross_attention_dim=WIDTH,
            attention_head_dim=tuple(max(1, c // 32) for c in channels),  # pyright: ignore[reportArgumentType] # diffusers' name for the number of heads
            class_embed_type="projection",
            projection_class_embeddings_input_dim=condition_width,
            norm_num_groups=16,
        )
        net.set_attn_processor(FrameAttention())  # pyright: ignore[reportArgumentType]
    if refined:
        net.refinement = Refinement(CHANNELS, 2 * TIME_WIDTH)
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
        v[:, IS_PICTURE] = picture.to(device, torch.float32)
    if relative:
        v[:, 12] = 1
    return v


def geometry_time(t: Tensor) -> Tensor:
    """(B, 16) features of the time step t (B,) of alpha and normals, where it is not the frame's own: 1, then sin and
    cos of pi k t / 1000, k = 1/2, 1, 2, 4, 8, 16, 32, then t / 1000. Zero rows mean: as the frame's own."""
    u = t.float() / 1000
    waves = [f(math.pi * k * u) for k in (0.5, 1, 2, 4, 8, 16, 32) for f in (torch.sin, torch.cos)]
    return torch.stack([torch.ones_like(u), *waves, u], 1)


def pooled(text: TextEmbedding) -> Tensor:
    """(B, 384) mean of a text's tokens, scaled to unit mean square."""
    mean = (text.tokens * text.mask[..., None]).sum(1) / text.mask.sum(1, keepdim=True)
    return F.normalize(mean, dim=1) * WIDTH**0.5


def predict_x0(
    net: UNet2DConditionModel,
    z: Tensor,
    t: Tensor,
    text: TextEmbedding,
    camera: Tensor,
    frames: int,
    geometry: Tensor | None = None,
) -> Tensor:
    """x0 (B, 7, S, S) from noisy frames z (B, 7, S, S) in [-1, 1] scale, t (B,), text (B, L, 384), camera (B, 16).
    `frames` neighbours are one object; where the first of them is a picture, it lies beside every one of them as more
    channels, as in Zero123 (2303.11328). `geometry`: `geometry_time` rows (B, 16) where alpha and normals carry a
    noise level of their own."""
    condition = camera
    if geometry is None:
        geometry = torch.zeros(len(camera), TIME_WIDTH, device=camera.device)
    if net.config["projection_class_embeddings_input_dim"] > CAMERA_WIDTH:
        condition = torch.cat([camera, geometry, pooled(text)], 1)
    x = F.pixel_unshuffle(z, PATCH)
    if net.config["in_channels"] > x.shape[1]:
        first = (x * camera[:, IS_PICTURE, None, None, None]).unflatten(0, (-1, frames))[:, :1]
        x = torch.cat([x, first.expand(-1, frames, -1, -1, -1).flatten(0, 1)], 1)
    out = net(
        x,
        t,
        text.tokens,
        class_labels=condition,
        encoder_attention_mask=text.mask,
        cross_attention_kwargs={"frames": frames},
        return_dict=False,
    )[0]
    out = F.pixel_shuffle(out, PATCH)
    if hasattr(net, "refinement"):
        out = net.refinement(out, z, torch.cat([geometry_time(t), geometry], 1))
    return out.float()


def widen(state: dict[str, Tensor], net: UNet2DConditionModel) -> dict[str, Tensor]:
    """Weights of a network that knows the camera alone, has no refinement, or sees no picture beside its frames, for
    `net`, a new one that has all. It starts as the same function: zeros for what it is told besides, the new
    refinement's own start."""
    new = net.state_dict()
    fresh = {k: v.clone() for k, v in new.items() if k.startswith("refinement.")}
    return fresh | state | {key: pad_inputs(state[key], new[key].shape) for key in WIDENED}


def pad_inputs(weight: Tensor, shape: torch.Size) -> Tensor:
    """A weight (out, in, ...) with zeros for the inputs that `shape` has more."""
    out = weight.new_zeros(shape)
    out[:, : weight.shape[1]] = weight
    return out
