"""Flags of `polymode serve`: apart from its body, so that other commands do not import Gradio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Serve:
    """A page in the browser: make, watch, find and compare runs. Ctrl-C stops it; runs at work go back into the
    queue."""

    runs: Path = Path("runs")
    """The folder of runs. Nothing outside its run folders is served."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine alone, 0.0.0.0 from everywhere."""
    port: int = 7860
    """Port to listen on."""
    auth: str = ""
    """USER:PASSWORD that the page and its endpoints ask for."""
    max_queue: int = 64
    """Jobs that may wait or run at once; more are refused."""
    max_upload: int = 25
    """Megabytes that an uploaded picture may have."""
    workers: int = 1
    """Worker processes, where there is no GPU; they share the cores."""
    idle: float = 300.0
    """Seconds without work after which a worker ends and its memory is free."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a worker for each GPU, or on the CPU where there is none."""
