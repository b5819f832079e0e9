"""Large steps: preconditioned optimisation of vertices (Nicolet, Jacobson and Jakob 2021, Large Steps in Inverse
Rendering of Geometry).

    u = (I + lambda L) v,      a step of gradient descent in u is      v <- v - eta (I + lambda L)^-2 dE/dv

with L the combinatorial Laplacian (degree on the diagonal, -1 for each edge). Steps are smooth over about sqrt(lambda)
edges, so sparse silhouette gradients move whole regions instead of tangling vertices. Momentum commutes with the
matrix, so everything is kept in v. As in the paper one scale serves all vertices (per-vertex scaling would undo the
smoothing); here it is the running root mean square of d = (I + lambda L)^-2 dE/dv instead of u's largest entry:

    m <- b1 m + (1 - b1) d,    s <- b2 s + (1 - b2) mean |d_i|^2,    v_i <- v_i - rate clip(m_i / sqrt(s), CLIP)

so that `rate` is a length in world units whatever lambda and the loss's scale are. With u's largest entry thin parts
vanished at rates at which others had not moved (a sword's blade at lambda 300).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import SuperLU

CLIP = 4.0  # a vertex moves at most this many times the rate in a step


def combinatorial_laplacian(faces: Tensor, vertices: int) -> csc_matrix:
    """Sparse (V, V) float64: degree on the diagonal, -1 for every edge of `faces` (F, 3)."""
    from scipy.sparse import coo_matrix, csc_matrix, diags

    f = faces.cpu().numpy()
    a, b = f.reshape(-1), np.roll(f, -1, axis=1).reshape(-1)
    ones = np.ones(len(a))
    ends = np.concatenate([a, b]), np.concatenate([b, a])
    adjacency = csc_matrix(coo_matrix((np.concatenate([ones, ones]), ends), (vertices, vertices)))
    adjacency.data[:] = 1  # an edge counts once, whatever number of faces it has
    return csc_matrix(diags(np.asarray(adjacency.sum(1))[:, 0]) - adjacency)


def factorised(faces: Tensor, vertices: int, smoothness: float) -> SuperLU:
    """I + smoothness L of one mesh's connectivity, factorised for `solve`, on the CPU in float64."""
    from scipy.sparse import csc_matrix, identity
    from scipy.sparse.linalg import splu

    matrix = csc_matrix(identity(vertices) + smoothness * combinatorial_laplacian(faces, vertices))
    # symmetric and positive definite: no pivoting, and an ordering for symmetric matrices, three times faster
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True, "DiagPivotThresh": 0.0})


Solve = Callable[[Tensor], Tensor]
"""(I + lambda L)^-2 of a gradient (N, C): float64 on the CPU."""


def over_mesh(faces: Tensor, vertices: int, smoothness: float = 20.0) -> Solve:
    """For the vertices of a mesh with `faces` (F, 3)."""
    factor = factorised(faces, vertices, smoothness)

    def solve(gradient: Tensor) -> Tensor:
        return torch.from_numpy(factor.solve(factor.solve(gradient.detach().cpu().double().numpy())))

    return solve


def over_grid(resolution: int, smoothness: float = 20.0) -> Solve:
    """For the vertices of a grid, R^3 in a row: cosines are the eigenvectors of its Laplacian."""
    from scipy.fft import dctn, idctn

    wave = 2 - 2 * np.cos(np.pi * np.arange(resolution) / resolution)
    damped = 1 / (1 + smoothness * (wave[:, None, None] + wave[:, None] + wave))[..., None] ** 2

    def solve(gradient: Tensor) -> Tensor:
        g = gradient.detach().cpu().double().numpy().reshape(*[resolution] * 3, -1)
        out = idctn(np.asarray(dctn(g, axes=(0, 1, 2))) * damped, axes=(0, 1, 2))
        return torch.from_numpy(np.asarray(out)).reshape(gradient.shape)

    return solve


class LargeSteps(torch.optim.Optimizer):
    """The update above, of one parameter (N, C). `lr` is the rate. `sparse`: most rows have no gradient (a grid's,
    away from the surface), so the mean of |d_i|^2 is weighted by itself."""

    def __init__(
        self,
        parameter: Tensor,
        solve: Solve,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        sparse: bool = False,
    ):
        super().__init__([parameter], {"lr": lr, "betas": betas})
        self.solve, self.sparse = solve, sparse

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update; `closure` is not used."""
        group = self.param_groups[0]
        (p,) = group["params"]
        if p.grad is None:
            return
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(p), torch.zeros((), dtype=torch.float64)
        (b1, b2), rate = group["betas"], group["lr"]
        d = self.solve(p.grad)
        state["step"] += 1
        n = float(state["step"])
        square = d.square().sum(1)
        mean = (square * square).sum() / square.sum().clamp(min=1e-300) if self.sparse else square.mean()
        state["mean"].mul_(b1).add_(d.to(p), alpha=1 - b1)
        state["square"].mul_(b2).add_(mean.to(p.device), alpha=1 - b2)
        scale = (state["square"] / (1 - b2**n)).sqrt().clamp(min=1e-30)
        move = state["mean"] / (1 - b1**n) / scale.to(p)
        length = move.norm(dim=1, keepdim=True)
        p.sub_(rate * move * (CLIP / length.clamp(min=CLIP)))
