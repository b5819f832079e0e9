"""What a person asks of the files: which formats, and how long the printed object's longest side is. No torch here:
the command line judges both before anything is loaded."""

from __future__ import annotations

import importlib.util
import math
import re

from app.errors import MissingError, UsageError

FORMATS = ("glb", "obj", "ply", "stl", "3mf", "usdz")
UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "in": 25.4}  # in millimetres
SMALLEST, LARGEST = 0.1, 100_000.0  # millimetres


def parse_formats(text: str) -> tuple[str, ...]:
    """("obj", "stl") of "obj,stl", each once and in its order. UsageError for a name that is none, or no name."""
    names = [n.strip().lower().removeprefix(".") for n in re.split(r"[,\s]+", text) if n.strip()]
    for n in names:
        if n not in FORMATS:
            raise UsageError(f"Unknown format {n[:40]!r}; choose of {', '.join(FORMATS)}, separated by commas.")
    if not names:
        raise UsageError(f"There is no format; choose of {', '.join(FORMATS)}, separated by commas.")
    return tuple(dict.fromkeys(names))


def parse_size(text: str) -> float:
    """Millimetres of "80mm", "8 cm", ".08m", "3.15in" or "80". UsageError for what is no length between 0.1 mm and
    100 m."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(mm|cm|m|in)?\s*", text.lower())
    value = float(found[1]) * UNITS[found[2] or "mm"] if found else math.nan
    if not SMALLEST <= value <= LARGEST:
        raise UsageError(f"The size {text[:40]!r} is no length; write for instance 80mm, 8cm, 0.08m or 3.15in.")
    return value


def require_formats(names: tuple[str, ...]) -> None:
    """MissingError, with how to install it, for a format whose package is absent."""
    if "usdz" in names and importlib.util.find_spec("pxr") is None:
        raise MissingError("USDZ needs usd-core; run `pip install usd-core`, or leave usdz out of --format.")
