"""A setting that is one of a few names: help lists them, the shell completes them.

The parser takes any word: app/recipes.check refuses what is none of them, in one sentence, wherever it came from.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Literal

from tyro.conf import arg

completing: ContextVar[bool] = ContextVar("completing", default=False)


def one_of(*names: str, more: str = "") -> Any:
    """What stands beside `str` in a field's Annotated. `more`: what else it may be."""

    def kind() -> Any:
        return Literal[names] if completing.get() else str

    def hint(default: str) -> str:
        return f"(default: {default.strip('[]').strip(chr(39))})"

    return arg(
        metavar="{" + ",".join(names) + "}" + (f"|{more}" if more else ""),
        constructor_factory=kind,
        help_behavior_hint=hint,
    )


def either(names: Iterable[str]) -> str:
    """In a sentence: "a, b or c"."""
    *some, last = names
    return f"{', '.join(some)} or {last}" if some else last
