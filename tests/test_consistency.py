"""Consistency and novel views of exact priors, whose answers are known."""

from __future__ import annotations

import torch

from app.evaluate.consistency import compare, fifth_views, five_cameras
from app.evaluate.prior import Sampling
from renderers.snapshot import snapshots
from tests.objects import car, mushroom, sphere
from tests.test_direct import Oracle


def frames_of(mesh) -> torch.Tensor:
    cameras = five_cameras(15.0)
    return torch.from_numpy(snapshots([mesh] * 5, cameras, 64, supersample=4))


class TwoObjects(Oracle):
    """Knows a mushroom and a car by name."""

    def __init__(self) -> None:
        super().__init__(frames_of(mushroom()))
        self.by_name = {"a mushroom": self.frames, "a car": frames_of(car())}

    def condition(self, prompt: str, views: object) -> bool:
        if prompt:
            self.frames = self.by_name[prompt]
        return bool(prompt)


def test_an_exact_priors_fifth_view_agrees_with_its_own_four_and_not_with_anothers() -> None:
    how = Sampling(steps=2, scale=1.0)
    result, pictures = fifth_views(TwoObjects(), list(TwoObjects().by_name), how, 0, [frames_of(sphere())])  # pyright: ignore[reportArgumentType]
    own, other, real = result["own fifth"], result["another's fifth"], result["exact renders"]
    assert own["IoU"][0] > 0.85 and real["IoU"][0] > 0.97 and other["IoU"][0] < 0.7
    assert own["PSNR"][0] > 18 > other["PSNR"][0] + 3
    assert own["normals"][0] < 0.5 * other["normals"][0]
    assert result["without a hull"] == 0 and [p.shape for p in pictures] == [(6, 7, 64, 64)] * 2


def test_compare_is_perfect_for_equal_frames_and_has_no_normals_of_nothing() -> None:
    frame = frames_of(sphere())[0]
    same = compare(frame, frame)
    assert same["IoU"] == 1 and same["normals"] == 0 and same["PSNR"] == float("inf")
    nothing = torch.full_like(frame, 0.5)
    nothing[3] = 0
    assert compare(nothing, frame)["IoU"] == 0 and compare(nothing, frame)["normals"] != same["normals"]
