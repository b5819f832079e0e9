"""A hand-made gradient, given to autograd.

The usual target trick is L = 0.5 ||x - sg[x - g]||^2 / B, with sg[] the stop-gradient: its value is 0.5 ||g||^2 / B
and dL/dx = g / B. In float32 the difference x - (x - g) keeps only the digits of g above the last digit of x: beside
x = 1 a gradient of 1e-6 is off by several per cent. The same value and gradient without the difference:

    L = (0.5 ||g||^2 + <sg[g], x - sg[x]>) / B,        dL/dx = g / B exactly.
"""

from __future__ import annotations

from torch import Tensor


def inject(x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar loss whose gradient with respect to x (B, ...) is `gradient` / B: summed over elements, mean over B.

    The value is a monitor of the gradient's norm, not a likelihood: it is not expected to fall. It is an ordinary
    loss: weights and scales on it act on the gradient.

    NaN and infinity pass through to the loss and to the parameters' gradients. They mean that the prior or the
    renderer broke. Zeros in their place would make a run that looks alive and does nothing, and would blind the
    application's detectors.
    ValueError where the shapes differ (broadcasting would scale the gradient in silence).
    """
    if x.shape != gradient.shape:
        raise ValueError(f"gradient has shape {tuple(gradient.shape)}, x has {tuple(x.shape)}: they must be equal")
    gradient = gradient.detach()
    return (0.5 * gradient.square().sum() + (gradient * (x - x.detach())).sum()) / x.shape[0]
