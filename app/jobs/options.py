"""Flags of `polymode jobs`: apart from its body, so that other commands do not import it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Jobs:
    """Runs as jobs: list, show, cancel, resume, open or rescan them, or work off the queue."""

    action: Positional[Literal["list", "show", "cancel", "resume", "open", "rescan", "work"]] = "list"
    """list them; show, cancel, resume or open one; rescan: rebuild the index from the folders; work: run what is
    queued until nothing is."""
    id: Annotated[Positional[str], arg(metavar="ID")] = ""
    """A run: the name of its folder."""
    runs: Path = Path("runs")
    """The folder of runs."""
    state: Literal["all", "queued", "running", "cancelling", "cancelled", "failed", "done"] = "all"
    """list: only runs in this state."""
    search: str = ""
    """list: only runs whose title has this in it."""
    limit: int = 50
    """list: at most so many, newest first."""
    workers: int = 1
    """work: worker processes, where there is no GPU."""
    json: bool = False
    """Print JSON."""
