"""Export a training checkpoint's EMA weights: `python -m app.training.ship --train .cache/train --out assets/prior`.

Only when the new weights' held-out error is lower than the shipped ones', unless --force.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from safetensors import safe_open

from guidance.errors import MissingWeights
from guidance.priors.embedded_files import read_config
from guidance.priors.embedded_weights import export_weights


@dataclass(frozen=True)
class Arguments:
    """Export EMA weights as bf16 shards with the state of their training."""

    train: Path
    """The training folder (checkpoint.safetensors, config.json, train.jsonl)."""
    out: Path
    """Where to write shards and config.json."""
    before: tuple[Path, ...] = ()
    """Earlier training folders that this one went on from: their frames, seconds and curve are counted in."""
    force: bool = False
    """Export even if the held-out error is not lower than what is there."""


def curve(folders: list[Path]) -> list[dict[str, float]]:
    """Validation entries of consecutive training folders, with frames, steps and seconds summed over them."""
    rows: list[dict[str, float]] = []
    total, raw = {"step": 0.0, "frames": 0.0, "seconds": 0.0}, {"frames": float("inf")}
    for folder in folders:
        own = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
        # a folder that started from another one's checkpoint goes on counting frames and seconds, not steps
        goes_on = own[0]["frames"] >= raw["frames"]
        base = {k: total[k] - (raw[k] if goes_on and k != "step" else 0) for k in total}
        rows += [r | {k: r[k] + base[k] for k in base} for r in own]
        total, raw = {k: rows[-1][k] for k in total}, own[-1]
    return rows


def main() -> None:
    a = tyro.cli(Arguments)
    rows = curve([*a.before, a.train])
    last = rows[-1]
    try:
        shipped = read_config(a.out)["training"]["x0"]
    except MissingWeights:
        shipped = float("inf")
    if last["x0"] >= shipped and not a.force:
        sys.stderr.write(
            f"Held-out x0 error {last['x0']:.4f} is not below the shipped {shipped:.4f}; nothing written.\n"
        )
        raise SystemExit(1)
    with safe_open(a.train / "checkpoint.safetensors", "pt") as file:
        ema = {k[4:]: file.get_tensor(k) for k in file.keys() if k.startswith("ema.")}
    config = json.loads((a.train / "config.json").read_text(encoding="utf-8"))
    export_weights(ema, a.out, tuple(config["channels"]), last, size=config["size"])
    keep = [r for i, r in enumerate(rows) if i % max(1, len(rows) // 60) == 0 or r is last]
    (a.out / "curve.json").write_text(json.dumps(keep, indent=0) + "\n", encoding="utf-8")
    sys.stderr.write(f"Exported step {last['step']:.0f}: held-out x0 error {last['x0']:.4f}\n")


if __name__ == "__main__":
    main()
