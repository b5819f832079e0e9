"""What a person gets: the table as text, results.json, and a contact sheet of everything that was evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from app.evaluate.measure import Record
from app.evaluate.network import light_frames
from app.evaluate.statistics import interval_text
from app.export.glb import encode_png, write_atomically
from app.export.preview import to_bytes
from app.text import to_json

COLUMNS = (
    ("R@1", "R@1", 100),
    ("R@5", "R@5", 100),
    ("color", "colour", 100),
    ("saturation", "saturation", 1),
    ("janus", "excess Janus", 100),
)


def cell(row: dict[str, Any], key: str, scale: int) -> str:
    """One value of a row of `measure.table`: mean [low, high], and of how many prompts where not of all."""
    if row[key] is None:
        return "-"
    of = "" if row[f"{key} n"] == row["prompts"] else f" of {row[f'{key} n']}"
    return interval_text(row[key], scale, 0) + of


def text_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of `measure.table` as aligned text: mean [95 % interval]; percent, saturation in CIELAB chroma."""
    lines = [["group", "prompts", *(title for _, title, _ in COLUMNS)]]
    for r in rows:
        lines.append([r["group"], str(r["prompts"]), *(cell(r, key, scale) for key, _, scale in COLUMNS)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def contact_sheet(path: Path, items: Sequence[tuple[Record, Tensor]], columns: int = 4) -> None:
    """One cell an object: four of its views as the evaluator lights them (azimuth 0, 90, 180, 270 degrees), the
    prompt, the rank of its noun and what was ranked first. All objects, in the order given."""
    views, size, text, gap = 4, 64, 24, 6
    width, height = views * size + gap, size + text + gap
    rows = -(-len(items) // columns)
    sheet = Image.new("RGB", (columns * width + gap, rows * height + gap), (240, 240, 240))
    draw = ImageDraw.Draw(sheet)
    for k, (record, frames) in enumerate(items):
        left, top = gap + (k % columns) * width, gap + (k // columns) * height
        step = max(1, len(frames) // views)
        pictures = to_bytes(light_frames(frames[::step][:views])[:, :3])
        strip = np.concatenate(list(pictures), 1)
        sheet.paste(Image.fromarray(strip), (left, top))
        color = "" if record.color_right is None else ", colour right" if record.color_right else ", colour wrong"
        draw.text((left, top + size), record.prompt.text, fill=(0, 0, 0))
        draw.text(
            (left, top + size + 11),
            f"rank {record.rank} ({record.best[0]}){color}",
            fill=(0, 110, 0) if record.rank == 1 else (150, 60, 0),
        )
    write_atomically(path, encode_png(np.asarray(sheet)))


def write_results(path: Path, results: dict[str, Any]) -> None:
    text = to_json(results, default=_plain)
    write_atomically(path, (text + "\n").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    raise TypeError(type(value).__name__)
