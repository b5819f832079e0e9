"""Draw the shipped prior's training curve: `python -m benchmarks.curve` writes docs/pictures/training.png.

Held-out x0 error (assets/prior/curve.json) over training frames, one line a stretch of one resolution.
"""

from __future__ import annotations

import json
import math
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, BOTTOM = 900, 420, 70, 50
COLORS = {32: (200, 110, 30), 64: (30, 90, 190)}


def main() -> None:
    rows = json.loads((Path(str(files("assets"))) / "prior" / "curve.json").read_text(encoding="utf-8"))
    low, high = math.log(0.012), math.log(0.045)
    most = max(r["frames"] for r in rows)
    sheet = Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)

    def x(frames: float) -> float:
        return LEFT + (WIDTH - LEFT - 20) * frames / most

    def y(error: float) -> float:
        return (HEIGHT - BOTTOM) * (high - math.log(error)) / (high - low)

    for tick in (0.015, 0.02, 0.025, 0.03, 0.04):
        draw.line((LEFT, y(tick), WIDTH - 20, y(tick)), (225, 225, 225))
        draw.text((LEFT - 8, y(tick)), f"{tick:.3f}", (60, 60, 60), font, anchor="rm")
    for tick in range(0, int(most), 100_000):
        draw.line((x(tick), HEIGHT - BOTTOM, x(tick), HEIGHT - BOTTOM + 5), (60, 60, 60))
        draw.text((x(tick), HEIGHT - BOTTOM + 8), f"{tick // 1000}k", (60, 60, 60), font, anchor="ma")
    draw.text((WIDTH / 2, HEIGHT - 8), "training frames", (60, 60, 60), font, anchor="ms")
    for before, after in pairwise(rows):
        if before["size"] == after["size"] and after["frames"] > before["frames"]:
            ends = (x(before["frames"]), y(before["x0"]), x(after["frames"]), y(after["x0"]))
            draw.line(ends, COLORS[after["size"]], 2)
    for i, (size, color) in enumerate(COLORS.items()):
        label = f"held-out x0 error at {size} pixels"
        draw.text((WIDTH - 30, 20 + 20 * i), label, color, font, anchor="rm")
    sheet.save(Path("docs/pictures/training.png"))


if __name__ == "__main__":
    main()
