"""Mirror symmetry: how much there is, and made exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from renderers.isosurface import signed_volume
from renderers.symmetry import mirrored, symmetry
from renderers.topology import arrays, faults
from tests.test_decimate import SHAPES, of_trimesh, shape


def reflected(v: Tensor) -> set[tuple[float, ...]]:
    return set(map(tuple, (v * torch.tensor([-1.0, 1, 1])).tolist()))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("shift", [0.0, 0.0371])
def test_the_mirrored_mesh_is_symmetric_and_a_closed_manifold(name: str, shift: float) -> None:
    v, f = shape(name)
    v = v + torch.tensor([shift, 0, 0])
    before = signed_volume(v, f)
    w, g, ends, share, side = mirrored(v, f)
    assert faults(arrays(w, g)[1]).manifold and signed_volume(w, g) * before > 0
    assert reflected(w) == set(map(tuple, w.tolist())) and symmetry(w, g) > 0.99
    # each vertex lies where it says it comes from, or its mirror image does
    a, b = (v[torch.from_numpy(ends[:, k])] for k in range(2))
    s = torch.from_numpy(share).float()[:, None]
    source = (1 - s) * a + s * b
    there = torch.stack([side * w[:, 0].abs(), w[:, 1], w[:, 2]], 1)
    assert float((source - there).abs().amax()) < 0.1


def test_the_half_with_more_surface_is_kept_and_its_size_too() -> None:
    ball = trimesh.creation.icosphere(4, 0.5)
    horn = trimesh.creation.icosphere(3, 0.2)
    horn.apply_translation((-0.7, 0, 0))
    v, f = of_trimesh(trimesh.util.concatenate([ball, horn]))
    w, g, _, _, side = mirrored(v, f)
    assert side == -1 and float(w[:, 0].max()) == pytest.approx(0.9, abs=0.01)
    one, two = (m.volume for m in (ball, horn))
    assert signed_volume(w, g) == pytest.approx(one + 2 * two, rel=0.01)
    assert trimesh.Trimesh(*arrays(w, g), process=False).body_count == 3


def test_how_symmetric_a_shape_is() -> None:
    v, f = shape("chair")
    assert symmetry(v, f) > 0.99
    assert symmetry(v + torch.tensor([0.2, 0, 0]), f) < 0.6
    turn = torch.tensor(trimesh.transformations.rotation_matrix(0.5, (0, 1, 0))[:3, :3]).float()
    assert symmetry(v @ turn.T, f) < symmetry(v, f) - 0.1
    assert symmetry(v, f) == symmetry(v.clone(), f.clone())


def test_one_side_alone_is_refused() -> None:
    v = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="nothing to mirror"):
        mirrored(v, torch.tensor([[0, 1, 2]], dtype=torch.int32))


def test_a_mesh_beside_the_plane_gets_an_image() -> None:
    v, f = of_trimesh(trimesh.creation.icosphere(2, 0.2))
    w, g, *_ = mirrored(v - torch.tensor([0.5, 0, 0]), f)
    assert len(g) == 2 * len(f) and np.unique(arrays(w, g)[0], axis=0).shape[0] == 2 * len(v)
