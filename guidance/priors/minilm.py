"""MiniLM-L6 (2002.10957), a BERT (1810.04805) of six layers, forward only: what the text encoder runs.

    e = LN(word + type + position);   per layer  h = LN(x + W_o attention(x)),  x = LN(h + W_2 gelu(W_1 h))

Written out because importing a library's BERT takes longer than everything that it does here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

LAYERS, HEADS, EPSILON = 6, 12, 1e-12


class MiniLM:
    """`weights`: as BERT's checkpoints name them, float32, on the device where it runs."""

    def __init__(self, weights: Mapping[str, Tensor]):
        self.weights = weights

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(N, L, 384) from token ids (N, L), and bool (N, L), true on tokens."""
        w = self.weights
        places = torch.arange(ids.shape[1], device=ids.device)
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x + w["embeddings.position_embeddings.weight"][places], "embeddings")
        bias = None if bool(mask.all()) else mask[:, None, None, :]
        for k in range(LAYERS):
            layer = f"encoder.layer.{k}"
            q, key, v = (
                self._linear(x, f"{layer}.attention.self.{name}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            seen = F.scaled_dot_product_attention(q, key, v, attn_mask=bias).transpose(1, 2).flatten(2)
            h = self._norm(self._linear(seen, f"{layer}.attention.output.dense") + x, f"{layer}.attention.output")
            inner = F.gelu(self._linear(h, f"{layer}.intermediate.dense"))
            x = self._norm(self._linear(inner, f"{layer}.output.dense") + h, f"{layer}.output")
        return x

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.LayerNorm.weight"], self.weights[f"{name}.LayerNorm.bias"]
        return F.layer_norm(x, (x.shape[-1],), weight, bias, EPSILON)
