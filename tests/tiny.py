"""A tiny embedded prior with random weights, 32-pixel frames."""

from __future__ import annotations

from functools import cache

from guidance.priors.embedded import EmbeddedPrior
from guidance.priors.embedded_sets import TrainConfig
from guidance.priors.embedded_train import new_state
from guidance.priors.text import TextEncoder


@cache
def text_encoder() -> TextEncoder:
    return TextEncoder()


def tiny_prior() -> EmbeddedPrior:
    state = new_state(TrainConfig(channels=(16, 32, 48), seed=3), "cpu")
    return EmbeddedPrior(state.net.eval().requires_grad_(False), text_encoder(), config={"size": 32})
