"""The tables and pictures of docs/methods.md, from a comparison's folder.

    python -m benchmarks.methods COMPARISON [--picture FILE PROMPT ...]

Prints the summary and the differences from sds as markdown; with --picture, writes a row a method, four seeds each:
the front frame, lit, and its normals.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from app.compare.cells import cell_path, load_made
from app.compare.report import COLUMNS
from app.evaluate.network import light_frames
from app.evaluate.statistics import interval_text
from app.export.preview import save_png


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def tables(results: dict) -> str:
    """Both tables as markdown."""
    columns = [c for c in COLUMNS if any(row[c[0]] is not None for row in results["summary"].values())]
    lines = [line(["method", *(k for k, _, _ in columns)]), "|---" * (len(columns) + 1) + "|"]
    for name, row in results["summary"].items():
        of = {k: "" if row["n"][k] == len(results["prompts"]) else f" ({row['n'][k]})" for k, _, _ in columns}
        lines.append(line([name, *(interval_text(row[k], scale, digits) + of[k] for k, scale, digits in columns)]))
    shown = ("margin, difference", "diversity, ratio", "diversity, all seeds, ratio", "saturation gap, difference")
    shown += ("kernel distance, difference", "modes a seed, difference", "janus, difference")
    lines += ["", line([f"against {results['base']}", *shown]), "|---" * (len(shown) + 1) + "|"]
    for name, row in results["paired"].items():
        scales = [100 if k.startswith("janus") else 1 for k in shown]
        lines.append(
            line([name, *(interval_text(row[k], s, 2 if s == 1 else 0) for k, s in zip(shown, scales, strict=True))])
        )
    return "\n".join(lines)


def strip(folder: Path, prompt: str, method: str, seeds: int) -> Tensor:
    """(2 seeds, 3, 64, 64): front frames, lit, and their normals."""
    parts = []
    for seed in range(seeds):
        frames = load_made(cell_path(folder, prompt, method, seed)).frames
        front = torch.zeros(1, 7, 64, 64) if frames is None else frames[:1]
        parts += [light_frames(front)[:, :3], front[:, 4:]]
    return torch.cat(parts)


def main() -> None:
    folder = Path(sys.argv[1])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    print(tables(results))
    if "--picture" in sys.argv:
        path, *prompts = sys.argv[sys.argv.index("--picture") + 1 :]
        methods = list(results["summary"])
        rows = [torch.cat([strip(folder, p, m, results["seeds"]) for p in prompts]) for m in methods]
        save_png(Path(path), rows, scale=1)


if __name__ == "__main__":
    main()
