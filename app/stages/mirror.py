"""The result made symmetric across x = 0, shape and colours, where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from app.candidates import Shape
from app.errors import CollapseError
from app.run.work import Work
from renderers.symmetry import mirrored, symmetry


def mirror(job: Work, shape: Shape) -> tuple[Shape, float]:
    """The shape, mirrored if `--mesh.symmetry x`, and how symmetric it was before, 0 to 1."""
    with job.clock.part("symmetry"):
        found = round(symmetry(shape.vertices, shape.faces), 3)
        if job.recipe.mesh.symmetry == "none":
            return shape, found
        try:
            whole, side = mirrored_shape(shape)
        except ValueError as e:
            raise CollapseError(f"{e} Leave --symmetry out, or try another --seed.") from e
    kept = "+X" if side > 0 else "-X"
    job.progress.note(f"The shape was {found:.0%} symmetric across x = 0; its {kept} half is mirrored.")
    return whole, found


def mirrored_shape(shape: Shape) -> tuple[Shape, int]:
    """Both halves from one, and the side that was kept, 1 or -1; colours are looked up on it."""
    device = shape.vertices.device
    vertices, faces, ends, share, side = mirrored(shape.vertices, shape.faces)
    a, b = torch.from_numpy(ends).to(device).unbind(1)
    s = torch.from_numpy(share).float().to(device)[:, None]

    def carried(values: Tensor) -> Tensor:
        return (1 - s) * values[a] + s * values[b]

    def folded(color: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda p: color(torch.cat([side * p[:, :1].abs(), p[:, 1:]], 1))

    color = carried(shape.color) if isinstance(shape.color, Tensor) else folded(shape.color)
    attributes = None if shape.attributes is None else carried(shape.attributes)
    whole = Shape(vertices.to(device), faces.to(device), color, folded(shape.texture), attributes, shape.light)
    return whole, side
