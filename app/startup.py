"""How a process loads what a run needs: docs/performance.md has the figures."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """For imports: no garbage is looked for meanwhile, and never again among what they left.

    Importing torch and what stands on it makes half a million objects and hardly any garbage; looking through them
    again and again took a quarter of the time.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if on:
            gc.enable()
