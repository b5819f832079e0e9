"""The table of guidance methods: a new one is one file in guidance/, one test, one line here, one line in the docs.

`direct` is not in it: it follows no gradient of the prior, but fuses its samples (app/stages/sample.py and fuse.py).
"""

from __future__ import annotations

from collections.abc import Callable

from guidance.sds import SDSStep, sds_step

METHODS: dict[str, Callable[..., SDSStep]] = {"sds": sds_step}
DIRECT = "direct"
NAMES = (*METHODS, DIRECT)
