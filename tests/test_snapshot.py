"""The trainer's fast pictures against the differentiable renderer's."""

from __future__ import annotations

import math

import numpy as np
import torch

from renderers.cameras import make_cameras
from renderers.mesh import render_mesh
from renderers.raster import make_context
from renderers.snapshot import snapshots
from tests.objects import OBJECTS, car


def test_snapshots_are_what_render_mesh_draws() -> None:
    cameras = make_cameras(torch.tensor([0.0, 0.9, 2.2, 4.0]), torch.tensor([0.3]))
    for mesh in OBJECTS.values():
        v, n, c, f = (torch.from_numpy(x) for x in mesh)
        fast = torch.from_numpy(snapshots([mesh] * 4, cameras, 64, supersample=4))
        slow = render_mesh(
            make_context("cpu"), v, f, cameras, 64, c, normals=n, supersample=4, two_sided=True
        ).frames()
        error = (fast - slow).abs()
        assert error.mean() < 2e-3 and (error.amax(1) > 0.1).float().mean() < 1e-2


def test_the_front_is_towards_positive_z_and_azimuth_grows_towards_positive_x() -> None:
    front, right, back = snapshots(
        [car()] * 3, make_cameras(torch.tensor([0, math.pi / 2, math.pi]), torch.zeros(1)), 64
    )
    yellow = lambda p: ((p[0] > 0.8) & (p[2] < 0.3)).sum()  # noqa: E731
    assert yellow(front) > 100 > 5 > yellow(back)
    columns = np.flatnonzero(((right[0] > 0.8) & (right[2] < 0.3)).any(0))
    assert columns.max() < 32, "seen from +X the front is on the left"
    assert front[3].max() == 1 and abs(front[4:, 34, 32] - np.array([0.5, 0.5, 1.0])).max() < 0.02
