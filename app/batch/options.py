"""Flags of `polymode batch`: apart from its body, so that other commands do not import it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Batch:
    """Many prompts or pictures, one JSON object a line of a file. Started again, it goes on where it stopped."""

    lines: Annotated[Positional[Path], arg(metavar="PROMPTS.JSONL")]
    """One JSON object a line: "prompt" or "image" (a path, from the file's own folder, or a list of paths), and any
    setting of config.yaml, as "field.steps": 50 or as "field": {"steps": 50}."""
    out: Path
    """The folder of the batch: a run folder for each line, summary.json, summary.csv and index.html."""
    workers: int = 0
    """Runs at once. Left out: one, or with a GPU one a GPU; with ray, as many as the cluster has room for."""
    threads: int = 0
    """local: threads of each worker. Left out, the workers share the processor's cores."""
    executor: Literal["local", "ray"] = "local"
    """local: worker processes on this machine. ray: actors on a Ray cluster (needs the extra ray)."""
    address: str = ""
    """ray: the cluster's address. Left out: $RAY_ADDRESS, the cluster that runs here, or one that is started."""
    cores_per_worker: int = 2
    """ray: cores of each actor, on a cluster without GPUs."""
    json: bool = False
    """Print the summary as JSON on stdout."""
