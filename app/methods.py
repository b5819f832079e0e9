"""The table of guidance methods: a new one is one file in guidance/, one test, one line here, one line in the docs
(docs/add-a-method.md walks through it).

A field's name is the method's name on the command line, its value the settings that `--NAME.SETTING` changes.
`direct` is not in it: it follows no gradient of the prior, but fuses its samples (app/stages/sample.py and fuse.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from guidance.settings import CSD, DSD, ESD, NFSD, SDI, SDS, SSD, VSD, FDistill, Method


@dataclass(frozen=True)
class Methods:
    """Every guidance method, with its settings."""

    sds: SDS = field(default_factory=SDS)
    csd: CSD = field(default_factory=CSD)
    ssd: SSD = field(default_factory=SSD)
    nfsd: NFSD = field(default_factory=NFSD)
    vsd: VSD = field(default_factory=VSD)
    esd: ESD = field(default_factory=ESD)
    sdi: SDI = field(default_factory=SDI)
    dsd: DSD = field(default_factory=DSD)
    fdistill: FDistill = field(default_factory=FDistill)


METHODS = tuple(f.name for f in dataclasses.fields(Methods))
DIRECT = "direct"
NAMES = (*METHODS, DIRECT)


def method_of(methods: Methods, name: str) -> Method:
    """The settings of the method `name`, one of METHODS."""
    return getattr(methods, name)
