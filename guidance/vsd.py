"""Variational score distillation, VSD (ProlificDreamer, 2305.16213).

    g = w(t) ( e_cfg(z_t, t; y) - e_q ),   e_q = (1 - known) e_lora(z_t, t; y, c) + known eps

e_lora is the score of the renders themselves, a LoRA of the prior trained as they come (guidance/score_model.py).
With one object and a camera the score it learns is that of a point mass, the noise: at its optimum VSD is SDS, and
what differs from SDS is what the LoRA has not learned. A small LoRA does not learn all that pixels can do, and where
it is blind nothing pulls them back: a share `known` of the optimum (0 in the paper) keeps that pull.
"""

from __future__ import annotations

from torch import Tensor

from guidance.esd import ScoreGuidance
from guidance.method import Guidance, Setup
from guidance.settings import VSD


def vsd(e_pre: Tensor, e_q: Tensor) -> Tensor:
    """g (B, C, H, W) before w(t)."""
    return e_pre - e_q


def start(setup: Setup, options: VSD) -> Guidance:
    return ScoreGuidance(setup, options.lora, 0.0)
