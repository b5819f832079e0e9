"""What is measured while a training runs: held-out errors with fixed noise, and sheets of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from app.evaluate.prior import Sampling, sample_prompt
from app.export.glb import encode_png, write_atomically
from app.training.course import SIZE
from app.training.data import Pack
from app.training.photograph import photograph
from app.training.rendering import draw
from app.training.sets import CANONICAL, ELEVATION
from app.training.texts import Texts
from guidance.prior import NoiseSchedule, to_signed
from guidance.priors.embedded import EmbeddedPrior
from guidance.priors.embedded_network import camera_vector, predict_x0
from guidance.priors.embedded_train import validation_error
from guidance.priors.text import TextEmbedding
from guidance.priors.unet import UNet2DConditionModel

MOST, LEAST = 16, 4  # objects that an error is of
LEVELS = (100, 300, 500, 700, 900)
LABEL, GAP, COLUMNS = 12, 8, 3  # of a sheet


class Checks:
    """Errors over fixed objects: held-out ones, and some of those that are trained on. Frames are drawn once."""

    def __init__(self, pack: Pack, training: Sequence[int], held_out: Sequence[int], texts: Texts):
        self.pack, self.texts = pack, texts
        self.pools = {True: training, False: held_out or training}
        self.count = min(MOST, max(LEAST, len(self.pools[False])))
        self._drawn: dict[tuple[object, ...], Tensor] = {}

    def validation(
        self, count: int, azimuth: Tensor, elevation: Tensor, size: int, seen: bool = False
    ) -> tuple[Tensor, list[str]]:
        """Frames (count * V, 7, size, size) and a caption each of `count` objects."""
        pool = self.pools[seen]
        indices = [pool[int(i * len(pool) / count)] for i in range(count)]
        key = (seen, count, size, azimuth.numpy().tobytes(), elevation.numpy().tobytes())
        if key not in self._drawn:
            around, above = (x.float().contiguous().numpy() for x in (azimuth, elevation))
            self._drawn[key] = draw([self.pack.mesh(i) for i in indices], around, above, size)
        return self._drawn[key].clone(), [self.pack.rows[i]["captions"][0] for i in indices]

    def picture(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        return photograph(frames, generator)

    def text(self, captions: list[str]) -> TextEmbedding:
        return self.texts.of(captions)

    def canonical(
        self, net: UNet2DConditionModel, schedule: NoiseSchedule, device: torch.device, bf16: bool, seen: bool
    ) -> float:
        """Mean squared x0 error over views from azimuths 0, 90, 180, 270, elevation 15 degrees, over LEVELS."""
        azimuth = torch.from_numpy(CANONICAL).float().expand(self.count, 4).contiguous()
        elevation = torch.full_like(azimuth, ELEVATION)
        frames, captions = self.validation(self.count, azimuth, elevation, SIZE, seen)
        x = to_signed(frames).to(device)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4321)).to(device)
        text = self.text([c for c in captions for _ in range(4)])
        camera = camera_vector(azimuth.flatten(), elevation.flatten(), len(x)).to(device)
        total = 0.0
        for level in LEVELS:
            t = torch.full((len(x),), level, device=device)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                x0 = predict_x0(net, schedule.add_noise(x, noise, t), t, text, camera, 4)
            total += float((x0 - x).square().mean())
        return total / len(LEVELS)

    def errors(
        self, net: UNet2DConditionModel, schedule: NoiseSchedule, device: torch.device, bf16: bool
    ) -> dict[str, float]:
        """x0: held-out objects, random orbits; seen: objects that are trained on; pictured: with a picture of it;
        canonical: the views that the product samples. Where nothing is held out, all are of trained ones."""

        def random(seen: bool = False, pictured: bool = False) -> dict[str, float]:
            return validation_error(net, self, SIZE, schedule, device, bf16, seen, pictured, self.count)

        entry, seen, pictured = random(), random(seen=True), random(pictured=True)
        entry |= {"seen": seen["x0"], "seen_900": seen["x0_900"]}
        entry |= {"pictured": pictured["x0"], "pictured_900": pictured["x0_900"]}
        for name, of_seen in (("canonical", False), ("canonical_seen", True)):
            entry[name] = self.canonical(net, schedule, device, bf16, of_seen)
        return entry


def sheet(prior: EmbeddedPrior, prompts: Sequence[str], path: Path) -> None:
    """Four views of a sample of each prompt as the product draws them: base colours over normals, as a PNG."""
    views = 4
    rows = -(-len(prompts) // COLUMNS)
    width, height = views * SIZE + GAP, 2 * SIZE + LABEL + GAP
    picture = Image.new("RGB", (COLUMNS * width - GAP, rows * height - GAP), (255, 255, 255))
    write = ImageDraw.Draw(picture)
    for k, prompt in enumerate(prompts):
        frames, _ = sample_prompt(prior, prompt, Sampling(views=views), 0)
        both = torch.cat([torch.cat(list(frames[:, :3]), 2), torch.cat(list(frames[:, 4:]), 2)], 1)
        left, top = k % COLUMNS * width, k // COLUMNS * height
        pixels = (both.clamp(0, 1).permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
        picture.paste(Image.fromarray(pixels), (left, top + LABEL))
        write.text((left + 2, top), prompt.encode("latin-1", "replace").decode("latin-1"), (0, 0, 0))
    write_atomically(path, encode_png(np.asarray(picture)))


def sheet_prompts(rows: Sequence[dict[str, object]], objects: Sequence[int], count: int) -> list[str]:
    """`count` captions, one a family, spread over the objects."""
    families = {rows[i]["family"]: str(rows[i]["captions"][0]) for i in reversed(objects)}  # pyright: ignore
    captions = list(dict.fromkeys(reversed(families.values())))
    count = min(count, len(captions))
    return [captions[math.floor(i * len(captions) / count)] for i in range(count)]
