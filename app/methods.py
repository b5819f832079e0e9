"""The table of guidance methods: a new one is one file in guidance/, one test, one line here, one line in the docs."""

from __future__ import annotations

from collections.abc import Callable

from guidance.sds import SDSStep, sds_step

METHODS: dict[str, Callable[..., SDSStep]] = {"sds": sds_step}
